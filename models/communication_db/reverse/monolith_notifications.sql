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
        {{ pgsplit.reverse_columns('notifications', {'read': 'read_at is not null'}) }}
    from notifications

    union all

    select
        {{ pgsplit.reverse_columns('notifications', {
            'userId': 'recipient_id',
            'type': "'chat_message'::text",
            'message': 'content',
            'data': 'whole_data',
            'read': 'read_at is not null',
        }) }}
    from closed
    where
        not exists (
            select from notifications
            where notifications.id = closed.id
        )
)

select * from renamed
