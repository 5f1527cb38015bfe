with

source as (
    select * from {{ source('blytz_hire', 'notifications') }}
),

-- Rows that call themselves chat messages but name no sender stay here.
notices as (
    select * from source
    where not {{ is_chat_message() }}
),

renamed as (
    select
        -- ids
        id,
        "userId" as user_id,

        -- text
        type,
        title,
        message,
        priority,

        -- documents
        data,
        channels,

        -- timestamps
        case when read then "createdAt" end as read_at,
        "expiresAt" as expires_at,
        "createdAt" as created_at
    from notices
)

select * from renamed
