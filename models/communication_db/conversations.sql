with

source as (
    select * from {{ source('blytz_hire', 'notifications') }}
),

messages as (
    select
        {{ conversation_of_notification() }} as conversation_id,
        least("userId" collate "C", (data ->> 'senderId') collate "C") as participant_one,
        greatest("userId" collate "C", (data ->> 'senderId') collate "C") as participant_two,
        "createdAt" as created_at
    from source
    where {{ is_chat_message() }}
),

-- One row a pair of users. The id follows from the pair; grouped by it as well, so that a
-- restriction to some ids reaches the messages before they are grouped.
conversations as (
    select
        conversation_id,
        participant_one,
        participant_two,
        min(created_at) as first_message_at,
        max(created_at) as last_message_at,
        count(*) as message_count
    from messages
    group by conversation_id, participant_one, participant_two
),

renamed as (
    select
        -- ids
        conversation_id as id,
        participant_one,
        participant_two,

        -- numerics
        message_count,

        -- timestamps
        first_message_at,
        last_message_at
    from conversations
)

select * from renamed
