{#
    Asks the live monolith's catalogue: every column it has is owned or dropped with a reason,
    and every column that is said to be owned exists. A generated column is no concern of a service:
    the monolith computes it from others. Kept beside the ledger, not in `audit`:
    the monolith is given one schema of ours and no more. A completed service's tables are retired,
    in a schema beside. A line whose column is `*` is about a whole table.
#}
{{ config(enabled=pgsplit.is_monolith(), schema='split', store_failures=true) }}

with

passed_over as (
    {{ pgsplit.passed_over() }}
),

live as (
    select
        class.relname::text as monolith_table,
        attribute.attname::text as monolith_column
    from pg_catalog.pg_attribute as attribute
    inner join pg_catalog.pg_class as class on attribute.attrelid = class.oid
    where
        class.relnamespace in (
            to_regnamespace('{{ pgsplit.monolith_schema() }}')::oid,
            to_regnamespace('{{ pgsplit.monolith_schema() }}_retired')::oid
        )
        and class.relkind in ('r', 'p')
        and not class.relispartition
        and attribute.attnum > 0
        and not attribute.attisdropped
        and attribute.attgenerated = ''
        and class.relname not in (select passed_over.table_name from passed_over)
),

owned as (
    select distinct
        monolith_table,
        monolith_column
    from {{ ref('column_ownership') }}
    where service_column is not null or reason is not null
),

compared as (
    select
        coalesce(live.monolith_table, owned.monolith_table) as monolith_table,
        coalesce(live.monolith_column, owned.monolith_column) as monolith_column,
        case
            when owned.monolith_table is null
                then 'nobody owns it: say in seeds/column_ownership.csv where it goes, or why it goes nowhere'
            when live.monolith_table is null
                then 'the monolith has no such column'
        end as problem
    from live
    full join owned using (monolith_table, monolith_column)
    where
        coalesce(owned.monolith_column, '') <> '*'
        and coalesce(live.monolith_table, owned.monolith_table) not in (
            select whole.monolith_table from owned as whole
            where whole.monolith_column = '*'
        )
)

select * from compared
where problem is not null
