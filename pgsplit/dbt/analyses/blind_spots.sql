{#
    What may this login not see, so that the other analyses are silent about it?
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with

tables as (
    select
        oid,
        oid::regclass::text as table_name
    from pg_catalog.pg_class
    where
        relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and relkind in ('r', 'p', 'f')
),

hidden as (
    select count(*) as sessions
    from pg_catalog.pg_stat_activity
    where query = '<insufficient privilege>'
),

found as (
    select
        'note' as severity,
        'not visible to this login' as hazard,
        'schema {{ pgsplit.monolith_schema() }}' as object,
        'no USAGE' as found,
        'Rows that refer to nothing were not looked for.' as means,
        format('GRANT USAGE ON SCHEMA {{ pgsplit.monolith_schema() }} TO %I;', current_user) as mend
    where not has_schema_privilege(to_regnamespace('{{ pgsplit.monolith_schema() }}'), 'usage')

    union all

    select
        'note' as severity,
        'not visible to this login' as hazard,
        case count(*) when 1 then min(table_name) else count(*) || ' tables' end as object,
        'no SELECT' as found,
        'Rows that refer to nothing were not looked for.' as means,
        format(
            'GRANT SELECT ON %s TO %I;',
            string_agg(table_name, ', ' order by table_name),
            current_user
        ) as mend
    from tables
    where not has_table_privilege(oid, 'select')
    having count(*) > 0

    union all

    select
        'note' as severity,
        'not visible to this login' as hazard,
        'sessions of others' as object,
        sessions || ' sessions' as found,
        'Whether any has a transaction open for long is unknown.' as means,
        format('GRANT pg_read_all_stats TO %I;', current_user) as mend
    from hidden
    where sessions > 0
)

select * from found
order by severity, hazard, object
