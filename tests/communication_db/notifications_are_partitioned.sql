{#
    Every notification of the monolith is either a notification or a chat message.

    Returns the ids that are in neither table or in both, and those that the mirror lacks.
#}
{{ config(enabled=target.name == 'communication_db' or var('everything', false)) }}

with

mirrored as (
    select id from {{ source('blytz_hire', 'notifications') }}
),

stored as (
    select
        id,
        'notifications' as stored_in
    from {{ ref('notifications') }}
    union all
    select
        id,
        'chat_messages' as stored_in
    from {{ ref('chat_messages') }}
),

-- One row an id, with the tables that hold it.
placed as (
    select
        id,
        count(mirrored.id) > 0 as is_mirrored,
        array_remove(array_agg(stored.stored_in), null) as stored_in
    from mirrored
    full join stored using (id)
    group by id
),

misplaced as (
    select * from placed
    where
        (not is_mirrored or cardinality(stored_in) <> 1)
        and not {{ pgsplit.is_pending('notifications', 'placed.id') }}
        and not {{ pgsplit.is_written(ref('notifications'), 'id', 'placed.id') }}
        and not {{ pgsplit.is_written(ref('chat_messages'), 'id', 'placed.id') }}
)

select * from misplaced
