{#
    What refers to what, and which of these references cross from one service to another?

    One row a foreign key, and one for each reference of models/_sources.yml that no key declares.
    `condition` says which rows refer to this target, where a column has several.
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with

owners as (
    select
        table_name,
        nullif(owner, '') as owner
    from ({{ pgsplit.expected_tables() }}) as rows (table_name, owner)
),

known as (
    select
        row_number() over () as position,
        rows.*
    from ({{ pgsplit.known_references() }}) as rows (
        table_name, column_name, target_table, target_column, value, condition
    )
),

keys as (
    select
        constraints.conname::text as key_name,
        constraints.convalidated as is_validated,
        constraints.condeferrable as is_deferrable,
        constraints.confdeltype,
        constraints.confupdtype,
        class.oid as table_oid,
        target.oid as target_oid,
        (
            select string_agg(attribute.attname, ', ' order by part.position)
            from unnest(constraints.conkey) with ordinality as part (attnum, position)
            inner join pg_catalog.pg_attribute as attribute
                on constraints.conrelid = attribute.attrelid and part.attnum = attribute.attnum
        ) as column_names,
        (
            select string_agg(attribute.attname, ', ' order by part.position)
            from unnest(constraints.confkey) with ordinality as part (attnum, position)
            inner join pg_catalog.pg_attribute as attribute
                on constraints.confrelid = attribute.attrelid and part.attnum = attribute.attnum
        ) as target_columns
    from pg_catalog.pg_constraint as constraints
    inner join pg_catalog.pg_class as class on constraints.conrelid = class.oid
    inner join pg_catalog.pg_class as target on constraints.confrelid = target.oid
    where
        constraints.contype = 'f'
        and constraints.conparentid = 0
        and to_regnamespace('{{ pgsplit.monolith_schema() }}')
        in (class.relnamespace, target.relnamespace)
),

tables as (
    select
        class.oid as table_oid,
        case
            when class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
                then class.relname::text
            else format('%I.%I', class.relnamespace::regnamespace, class.relname)
        end as table_name
    from pg_catalog.pg_class as class
    where class.relkind in ('r', 'p', 'f')
),

declared as (
    select
        referring.table_name,
        keys.column_names,
        target.table_name as target_table,
        keys.target_columns,
        keys.key_name,
        keys.is_validated,
        keys.is_deferrable,
        keys.confdeltype,
        keys.confupdtype,
        known.condition
    from keys
    inner join tables as referring on keys.table_oid = referring.table_oid
    inner join tables as target on keys.target_oid = target.table_oid
    left join known
        on
            referring.table_name = known.table_name
            and keys.column_names = known.column_name
            and target.table_name = known.target_table
            and keys.target_columns = known.target_column
            and known.condition <> 'true'
),

undeclared as (
    select known.*
    from known
    inner join tables on known.table_name = tables.table_name
    inner join pg_catalog.pg_attribute as attribute
        on
            tables.table_oid = attribute.attrelid
            and known.column_name = attribute.attname
            and attribute.attnum > 0
            and not attribute.attisdropped
    left join declared
        on
            known.table_name = declared.table_name
            and known.column_name = declared.column_names
            and known.target_table = declared.target_table
            and known.target_column = declared.target_columns
    where declared.table_name is null
),

everything as (
    select * from declared

    union all

    select
        table_name,
        case value
            when '"' || column_name || '"' then column_name else value
        end as column_names,
        target_table,
        target_column as target_columns,
        null as key_name,
        null as is_validated,
        null as is_deferrable,
        null as confdeltype,
        null as confupdtype,
        nullif(condition, 'true') as condition
    from undeclared
),

actions as (
    select
        action,
        words
    from (
        values
        ('a', 'no action'),
        ('r', 'restrict'),
        ('c', 'cascade'),
        ('n', 'set null'),
        ('d', 'set default')
    ) as rows (action, words)
)

select
    everything.table_name,
    everything.column_names,
    everything.target_table,
    everything.target_columns,
    everything.key_name,
    everything.is_validated,
    everything.is_deferrable,
    everything.condition,
    owners.owner,
    target_owners.owner as target_owner,
    deleted.words as on_delete,
    updated.words as on_update,
    coalesce(owners.owner, '') <> coalesce(target_owners.owner, '') as crosses
from everything
left join owners on everything.table_name = owners.table_name
left join owners as target_owners on everything.target_table = target_owners.table_name
left join actions as deleted on everything.confdeltype = deleted.action
left join actions as updated on everything.confupdtype = updated.action
order by
    owners.owner,
    everything.table_name,
    everything.column_names,
    everything.target_table,
    everything.key_name
