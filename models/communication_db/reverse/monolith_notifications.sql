with

-- Read twice; PostgreSQL would keep it whole in between.
notifications as not materialized (
    select * from {{ ref('notifications') }}
),

chat_messages as (
    select * from {{ ref('chat_messages') }}
),

-- What has a column counts; what the column does not say is as data has it.
closed as (
    select
        *,
        data || jsonb_strip_nulls(
            jsonb_build_object(
                'senderId', sender_id,
                'senderName', sender_name,
                'senderRole', sender_role,
                'type', message_type,
                'timestamp', {{ iso_text('sent_at') }}
            )
        ) as whole_data
    from chat_messages
),

-- One row an id, as the monolith's key wants it: of two with the same, the notification.
renamed as (
    select
        id,
        user_id as "userId",
        type,
        title,
        message,
        data,
        read_at is not null as read,
        priority,
        channels,
        expires_at as "expiresAt",
        created_at as "createdAt"
    from notifications

    union all

    select
        id,
        recipient_id as "userId",
        'chat_message'::text as type,
        title,
        content as message,
        whole_data as data,
        read_at is not null as read,
        priority,
        channels,
        expires_at as "expiresAt",
        created_at as "createdAt"
    from closed
    where
        not exists (
            select from notifications
            where notifications.id = closed.id
        )
)

select * from renamed
