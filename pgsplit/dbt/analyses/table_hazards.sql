{#
    Which tables cannot be copied and followed as they are?

    Missing and unexpected tables; tables that a split passes over; tables without a key to follow them by; tables whose changes
    are not in the WAL, or not under their name; row-level security; tables never analyzed.
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with

expected as (
    select
        table_name,
        nullif(owner, '') as owner
    from ({{ pgsplit.expected_tables() }}) as rows (table_name, owner)
),

tables as (
    select
        class.*,
        class.oid::regclass::text as object,
        expected.owner
    from pg_catalog.pg_class as class
    left join expected on class.relname = expected.table_name
    where
        class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and class.relkind in ('r', 'p', 'f')
        and not class.relispartition
),

passed_over as (
    {{ pgsplit.passed_over() }}
),

said as (
    {{ pgsplit.goes_nowhere() }}
),

nowhere as (
    select * from passed_over

    union all

    select
        monolith_table as table_name,
        reason
    from said
    where monolith_column = '*'
),

keys as (
    select
        indexes.indrelid,
        indexes.indimmediate,
        indexes.indisvalid,
        class.relname as name
    from pg_catalog.pg_index as indexes
    inner join pg_catalog.pg_class as class on indexes.indexrelid = class.oid
    where indexes.indisprimary
),

found as (
    select
        'blocks' as severity,
        'table is missing' as hazard,
        format('%I.%I', '{{ pgsplit.monolith_schema() }}', table_name) as object,
        'expected for ' || owner as found,
        'It cannot land: models/_sources.yml expects it.' as means,
        'Create it, or take it out of models/_sources.yml and its models.' as mend
    from expected
    where
        owner is not null
        and table_name not in (select tables.relname from tables)
        -- a completion has retired it
        and to_regclass(
            format('%I.%I', '{{ pgsplit.monolith_schema() }}_retired', table_name)
        ) is null

    union all

    select
        'blocks' as severity,
        'table that nobody owns' as hazard,
        object,
        case relkind when 'f' then 'a foreign table' else 'a table' end as found,
        'It would be left behind; the check of the monolith fails until somebody owns it.' as means,
        'Give it an owner in models/_sources.yml and its columns a place in'
        ' seeds/column_ownership.csv. If it goes nowhere, add the line '
        || concat_ws(',', case
            when relname ~ '[",]' then '"' || replace(relname, '"', '""') || '"' else relname
        end, '*,,,,,WHY') || ' there, with the reason for WHY.' as mend
    from tables
    where owner is null and relname not in (select nowhere.table_name from nowhere)

    union all

    select
        'note' as severity,
        'table that is passed over' as hazard,
        tables.object,
        nowhere.reason as found,
        'It stays in the monolith, and no command copies it.' as means,
        'If a service needs it, give it an owner in models/_sources.yml and its columns a place in'
        ' seeds/column_ownership.csv.' as mend
    from tables
    inner join nowhere on tables.relname = nowhere.table_name
    where tables.owner is null

    union all

    select
        'blocks' as severity,
        'no primary key' as hazard,
        tables.object,
        case
            when keys.indrelid is null then 'there is none'
            when keys.indisvalid then 'it is deferrable'
            else 'it is not valid'
        end as found,
        'Updates and deletes cannot be followed, and the monolith would refuse them.' as means,
        format(
            'ALTER TABLE %s %sADD PRIMARY KEY (id);',
            tables.object,
            'DROP CONSTRAINT ' || quote_ident(keys.name) || ', '
        ) as mend
    from tables
    left join keys on tables.oid = keys.indrelid
    where
        tables.owner is not null
        and tables.relkind <> 'f'
        and (keys.indimmediate and keys.indisvalid) is not true

    union all

    select
        'blocks' as severity,
        'replica identity' as hazard,
        object,
        case relreplident
            when 'n' then 'NOTHING' when 'f' then 'FULL' else 'USING INDEX'
        end as found,
        'The table is followed by its primary key; landing refuses any other identity.' as means,
        'ALTER TABLE ' || object || ' REPLICA IDENTITY DEFAULT;' as mend
    from tables
    where owner is not null and relreplident <> 'd' and relkind <> 'f'

    union all

    select
        'blocks' as severity,
        'unlogged table' as hazard,
        object,
        'UNLOGGED' as found,
        'Its changes are not in the WAL, so it cannot be published or followed.' as means,
        'ALTER TABLE ' || object || ' SET LOGGED; it rewrites the table under a lock.' as mend
    from tables
    where owner is not null and relpersistence = 'u'

    union all

    select
        'blocks' as severity,
        'foreign table' as hazard,
        object,
        'it lives on another server' as found,
        'It cannot be published; this project copies ordinary tables.' as means,
        'Make it a table: CREATE TABLE … AS TABLE ' || object || '; with its keys.' as mend
    from tables
    where owner is not null and relkind = 'f'

    union all

    select
        'blocks' as severity,
        'partitioned table' as hazard,
        object,
        (
            select count(*) from pg_partition_tree(tables.oid) as tree
            where tree.isleaf
        ) || ' partitions' as found,
        'Changes are published under the partitions'' names, which no mirror has.' as means,
        'Put its rows into one ordinary table of this name; or extend landing to it first.' as mend
    from tables
    where owner is not null and relkind = 'p'

    union all

    select
        'blocks' as severity,
        'inherited table' as hazard,
        tables.object,
        'inherits from ' || inherits.inhparent::regclass as found,
        'Its rows are copied with the parent''s, but their changes do not follow.' as means,
        'ALTER TABLE ' || tables.object || ' NO INHERIT ' || inherits.inhparent::regclass
        || '; and insert its rows into the parent.' as mend
    from pg_catalog.pg_inherits as inherits
    inner join tables on inherits.inhrelid = tables.oid

    union all

    select
        case
            when row_security_active(oid) then 'blocks' else 'changes behaviour'
        end as severity,
        'row-level security' as hazard,
        object,
        (
            select count(*) from pg_catalog.pg_policy as policy
            where policy.polrelid = tables.oid
        ) || ' policies' || case when relforcerowsecurity then ', forced' else '' end as found,
        case
            when row_security_active(oid)
                then 'This login sees some of the rows only, so landing would refuse the table.'
            else 'Policies do not move: in the service, whoever may read the table sees all of it.'
        end as means,
        case
            when row_security_active(oid)
                then format('ALTER ROLE %I BYPASSRLS;', current_user)
            else
                'Re-create them in the service: SELECT * FROM pg_policies'
                || ' WHERE schemaname = ''{{ pgsplit.monolith_schema() }}'';'
        end as mend
    from tables
    where relrowsecurity

    union all

    select
        'note' as severity,
        'never analyzed' as hazard,
        object,
        'no estimate of its rows' as found,
        'Progress is unknown while it lands, and the planner guesses.' as means,
        'ANALYZE ' || object || ';' as mend
    from tables
    where reltuples = -1 and relkind <> 'f'
)

select * from found
order by severity, hazard, object
