with

source as (
    select * from {{ source('blytz_hire', 'notifications') }}
),

messages as (
    select * from source
    where {{ is_chat_message() }}
),

-- A field of data becomes a column where it can be written back the same. Each is needed several
-- times, and `limit 1` has it computed once.
opened as (
    select
        messages.*,
        fields.*
    from messages
    cross join lateral ( -- noqa: ST05
        select
            data ->> 'senderId' as sender_id,
            {{ json_text('data', 'senderName') }} as sender_name,
            {{ json_text('data', 'senderRole') }} as sender_role,
            {{ json_text('data', 'type') }} as message_type,
            {{ iso_timestamp("(data -> 'timestamp')") }} as sent_at
        limit 1 -- noqa: AM09
    ) as fields
),

renamed as (
    select
        -- ids
        id,
        {{ conversation_id('"userId"', 'sender_id') }} as conversation_id,
        sender_id,
        "userId" as recipient_id,

        -- text
        title,
        message as content,
        message_type,
        sender_name,
        sender_role,
        priority,

        -- documents
        data - array[
            'senderId',
            case when sender_name is not null then 'senderName' end,
            case when sender_role is not null then 'senderRole' end,
            case when message_type is not null then 'type' end,
            case when sent_at is not null then 'timestamp' end
        ] as data,
        channels,

        -- timestamps
        sent_at,
        case when read then "createdAt" end as read_at,
        "expiresAt" as expires_at,
        "createdAt" as created_at
    from opened
)

select * from renamed
