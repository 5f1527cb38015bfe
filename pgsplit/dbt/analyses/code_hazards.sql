{#
    Which code inside the database stays behind, or reads tables of several services?

    Triggers, rules, event triggers; views, materialized views and functions whose tables will not
    live together. What a function reads is guessed from its text where it is kept as text.
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with recursive

owners as (
    select
        class.oid as table_oid,
        class.relname,
        nullif(rows.owner, '') as owner
    from ({{ pgsplit.expected_tables() }}) as rows (table_name, owner)
    inner join pg_catalog.pg_class as class on rows.table_name = class.relname
    where
        class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and class.relkind in ('r', 'p', 'f')
),

-- A view may read its tables through other views.
view_reads as (
    select distinct
        views.oid as reader,
        depends.refobjid as relation
    from pg_catalog.pg_class as views
    inner join pg_catalog.pg_rewrite as rules on views.oid = rules.ev_class
    inner join pg_catalog.pg_depend as depends
        on
            rules.oid = depends.objid
            and depends.classid = 'pg_catalog.pg_rewrite'::regclass
            and depends.refclassid = 'pg_catalog.pg_class'::regclass
            and views.oid <> depends.refobjid
    where views.relkind in ('v', 'm')
),

view_tables as (
    select
        reader,
        relation
    from view_reads

    union

    select
        through.reader,
        view_reads.relation
    from view_tables as through
    inner join view_reads on through.relation = view_reads.reader
),

views as (
    select
        class.oid::regclass::text as object,
        case class.relkind
            when 'm' then 'materialized view across services' else 'view across services'
        end as hazard,
        array_agg(distinct owners.relname::text) as tables,
        array_agg(distinct owners.owner) as services
    from view_tables
    inner join owners on view_tables.relation = owners.table_oid
    inner join pg_catalog.pg_class as class on view_tables.reader = class.oid
    group by class.oid, class.relkind
),

routines as (
    select
        procs.oid::regprocedure::text as object,
        'function across services' as hazard,
        array_agg(distinct owners.relname::text) as tables,
        array_agg(distinct owners.owner) as services
    from pg_catalog.pg_proc as procs
    left join pg_catalog.pg_depend as depends
        on
            procs.oid = depends.objid
            and depends.classid = 'pg_catalog.pg_proc'::regclass
            and depends.refclassid = 'pg_catalog.pg_class'::regclass
    inner join owners
        on
            depends.refobjid = owners.table_oid
            or procs.prosrc ~* (
                '\m(from|join|into|update|only|truncate|table|using)\s+'
                || '("?{{ pgsplit.monolith_schema() }}"?\.)?"?' || owners.relname || '"?(\W|$)'
            )
    where
        procs.pronamespace not in (
            select namespaces.oid from pg_catalog.pg_namespace as namespaces
            where namespaces.nspname in ('pg_catalog', 'information_schema', 'split')
        )
        and not exists (
            select 1 from pg_catalog.pg_depend as belongs
            where
                procs.oid = belongs.objid
                and belongs.classid = 'pg_catalog.pg_proc'::regclass
                and belongs.deptype = 'e'
        )
    group by procs.oid
),

readers as (
    select * from views
    union all
    select * from routines
),

found as (
    select
        'changes behaviour' as severity,
        'trigger' as hazard,
        quote_ident(triggers.tgname) || ' on ' || triggers.tgrelid::regclass as object,
        'runs ' || triggers.tgfoid::regproc
        || case triggers.tgenabled when 'D' then ', disabled' else '' end as found,
        'It fires in the monolith only; a service''s own writes do not fire it.' as means,
        pg_get_triggerdef(triggers.oid) || '; if it is needed, create it in '
        || coalesce(owners.owner, 'its service') || ' too, or do the same in its code.' as mend
    from pg_catalog.pg_trigger as triggers
    inner join pg_catalog.pg_class as class on triggers.tgrelid = class.oid
    left join owners on triggers.tgrelid = owners.table_oid
    where
        class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and not triggers.tgisinternal
        -- what is in this schema is ours, such as the write fence of a switch
        and not exists (
            select from pg_catalog.pg_proc as guards
            where
                guards.oid = triggers.tgfoid
                and guards.pronamespace = to_regnamespace('split')
        )
        and triggers.tgparentid = 0

    union all

    select
        'changes behaviour' as severity,
        'rule' as hazard,
        quote_ident(rules.rulename) || ' on ' || rules.ev_class::regclass as object,
        case rules.ev_type when '2' then 'UPDATE' when '3' then 'INSERT' else 'DELETE' end as found,
        'It rewrites statements in the monolith only.' as means,
        pg_get_ruledef(rules.oid) || ' if it is needed, do the same in the code of '
        || coalesce(owners.owner, 'its service') || '.' as mend
    from pg_catalog.pg_rewrite as rules
    inner join pg_catalog.pg_class as class on rules.ev_class = class.oid
    left join owners on rules.ev_class = owners.table_oid
    where
        class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and class.relkind in ('r', 'p')
        and rules.rulename <> '_RETURN'

    union all

    select
        'note' as severity,
        'event trigger' as hazard,
        quote_ident(evtname) as object,
        'on ' || evtevent || ', runs ' || evtfoid::regproc as found,
        'It also fires when this project makes its schema and its publications.' as means,
        format(
            'If it would refuse them, disable it meanwhile: ALTER EVENT TRIGGER %I DISABLE;',
            evtname
        ) as mend
    from pg_catalog.pg_event_trigger
    where evtenabled <> 'D'

    union all

    select
        'changes behaviour' as severity,
        readers.hazard,
        readers.object,
        'reads ' || array_to_string(readers.tables, ', ') as found,
        'Its tables will live in different databases: '
        || array_to_string(readers.services, ', ') || '.' as means,
        'Read it from one service and ask the others, or drop it with the monolith.' as mend
    from readers
    where cardinality(readers.services) > 1
)

select * from found
order by severity, hazard, object
