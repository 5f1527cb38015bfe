{#
    Which tables does the monolith have, how big are they, and who will own them?

    One row a table, expected or not. `rows_estimate` is the planner's, null if it has none; `bytes`
    are with indexes and out-of-line values, partitions included; null for a table that is missing.
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with

expected as (
    select
        table_name,
        nullif(owner, '') as owner
    from ({{ pgsplit.expected_tables() }}) as rows (table_name, owner)
),

live as (
    select
        class.oid as table_oid,
        class.relname::text as table_name,
        (
            select sum(pg_total_relation_size(tree.relid))
            from pg_partition_tree(class.oid) as tree
        ) as partitioned_bytes,
        pg_total_relation_size(class.oid) as bytes,
        nullif(class.reltuples, -1)::bigint as rows_estimate
    from pg_catalog.pg_class as class
    where
        class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and class.relkind in ('r', 'p')
        and not class.relispartition
)

select
    expected.owner,
    live.rows_estimate,
    coalesce(live.table_name, expected.table_name) as table_name,
    live.table_oid is not null as is_there,
    coalesce(live.partitioned_bytes, live.bytes)::bigint as bytes
from live
full join expected using (table_name)
order by expected.owner, table_name
