{#
    Every notification of the monolith is either a notification or a chat message.

    Returns the ids that are in neither table or in both, and those that the mirror lacks.
#}
{{ config(enabled=target.name == 'communication_db' or var('everything', false)) }}

with

mirrored as (
    select id from {{ source('blytz_hire', 'notifications') }}
),

notifications as (
    select id from {{ ref('notifications') }}
),

chat_messages as (
    select id from {{ ref('chat_messages') }}
),

stored as (
    select id from notifications
    union all
    select id from chat_messages
),

placed as (
    select
        id,
        case when stored.id is null then 'in neither table' else 'not in the mirror' end as problem
    from mirrored
    full join stored using (id)
    where mirrored.id is null or stored.id is null
    union all
    select
        id,
        'in both tables' as problem
    from notifications
    inner join chat_messages using (id)
),

misplaced as (
    select * from placed
    where
        not {{ pgsplit.is_pending('notifications', 'placed.id') }}
        and not {{ pgsplit.is_written(ref('notifications'), 'id', 'placed.id') }}
        and not {{ pgsplit.is_written(ref('chat_messages'), 'id', 'placed.id') }}
)

select * from misplaced
