-- What Citus refuses on a service's tables once they are distributed, with the statements that
-- change it, in the order in which they run; foreign keys that stay have no reason to change. Same
-- settings as in tables.sql. The rules are those that create_distributed_table enforces.
with

wanted as (
    select
        key as table_name,
        value as column_name
    from json_each_text(current_setting('split.distribution')::json)
),

-- Every table of the database; a partition is what its root is.
tables as (
    select
        classes.oid as relation,
        format('%I.%I', namespaces.nspname, classes.relname) as full_name,
        case
            when wanted.table_name is null then 'local'
            when wanted.column_name is null then 'reference'
            else 'distributed'
        end as kind,
        attributes.attnum as place,
        quote_ident(attributes.attname) as column_name,
        attributes.atttypid as column_type,
        attributes.attcollation as column_collation
    from pg_class as classes
    inner join pg_namespace as namespaces on classes.relnamespace = namespaces.oid
    inner join
        pg_class as roots
        on roots.oid = coalesce(pg_partition_root(classes.oid), classes.oid)
    left join wanted
        on
            roots.relname = wanted.table_name
            and roots.relnamespace
            = to_regnamespace(quote_ident(current_setting('split.service_schema')))
    left join pg_attribute as attributes
        on classes.oid = attributes.attrelid and wanted.column_name = attributes.attname
    where classes.relkind in ('r', 'p')
),

foreign_keys as (
    select
        1 as step,
        children.full_name,
        constraints.conname::text as name,
        'dropped' as becomes,
        parents.full_name as refers_to,
        array[format(
            'alter table %s drop constraint %I', children.full_name, constraints.conname
        )] as statements,
        case
            when
                children.kind <> 'distributed' and parents.kind = 'distributed'
                then format(
                    '%s is distributed, and %s is not', parents.full_name, children.full_name
                )
            when
                children.kind = 'distributed' and parents.kind = 'local'
                then format(
                    '%s is on one server only; as a reference table it could stay',
                    parents.full_name
                )
            when
                children.kind = 'reference' and parents.kind = 'local'
                and format('%s%s', constraints.confdeltype, constraints.confupdtype) ~ '[^ar]'
                then format(
                    '%s is on one server only, and it changes rows on all of them',
                    parents.full_name
                )
            when
                children.kind = 'distributed' and parents.kind = 'distributed'
                and (children.column_type, children.column_collation)
                <> (parents.column_type, parents.column_collation)
                then format(
                    '%s and %s are not of one type, so their rows are on different servers',
                    children.column_name, parents.column_name
                )
            when
                children.kind = 'distributed' and parents.kind = 'distributed'
                and coalesce(
                    array_position(constraints.conkey, children.place)
                    <> array_position(constraints.confkey, parents.place),
                    true
                )
                then format(
                    'it does not lead from %s to %s, so its two rows may be on different servers',
                    children.column_name, parents.column_name
                )
            when
                children.kind = 'distributed'
                and children.place = any(constraints.conkey)
                and (
                    constraints.confdeltype in ('n', 'd')
                    or constraints.confupdtype in ('n', 'd', 'c')
                )
                then format('it would change %s, which no row may', children.column_name)
        end as reason
    from pg_constraint as constraints
    inner join tables as children on constraints.conrelid = children.relation
    inner join tables as parents on constraints.confrelid = parents.relation
    where
        constraints.contype = 'f'
        and constraints.conparentid = 0
        and (children.kind <> 'local' or parents.kind <> 'local')
),

-- The split's own are write fences, which the completion has opened for good; the first migration
-- does not make them, so nothing becomes of them there.
triggers as (
    select
        2 as step,
        tables.full_name,
        triggers.tgname::text as name,
        case when ours.oid is null then 'dropped' end as becomes,
        null as refers_to,
        array[
            format(
                'drop trigger %s%I on %s',
                case when ours.oid is not null then 'if exists ' end,
                triggers.tgname,
                tables.full_name
            )
        ] as statements,
        'Citus runs no triggers on such a table' as reason
    from pg_trigger as triggers
    inner join tables on triggers.tgrelid = tables.relation
    inner join pg_proc as functions on triggers.tgfoid = functions.oid
    left join pg_namespace as ours on functions.pronamespace = ours.oid and ours.nspname = 'split'
    where not triggers.tgisinternal and triggers.tgparentid = 0 and tables.kind <> 'local'
),

-- Keys, unique indexes and exclusions that lack the distribution column.
keys as (
    select
        tables.full_name,
        tables.column_name,
        classes.relname::text as index_name,
        format('%I.%I', namespaces.nspname, classes.relname) as full_index_name,
        constraints.conname::text as constraint_name,
        indexes.indisexclusion,
        pg_get_constraintdef(constraints.oid) as constraint_definition,
        regexp_replace(pg_get_indexdef(classes.oid), ' ON ONLY ', ' ON ') as index_definition,
        (
            select string_agg(quote_ident(attributes.attname), ', ' order by listed.place)
            from unnest(constraints.conkey) with ordinality as listed (attnum, place)
            inner join pg_attribute as attributes
                on attributes.attrelid = tables.relation and listed.attnum = attributes.attnum
        ) as columns
    from pg_index as indexes
    inner join tables on indexes.indrelid = tables.relation
    inner join pg_class as classes on indexes.indexrelid = classes.oid
    inner join pg_namespace as namespaces on classes.relnamespace = namespaces.oid
    left join pg_constraint as constraints
        on classes.oid = constraints.conindid and constraints.contype in ('p', 'u', 'x')
    where
        tables.kind = 'distributed'
        and (indexes.indisunique or indexes.indisexclusion)
        and not exists (
            select 1 from pg_inherits as parts
            where parts.inhrelid = classes.oid
        )
        and not exists (
            select 1
            from unnest(indexes.indkey) with ordinality as listed (attnum, place)
            left join pg_operator as operators
                on operators.oid = constraints.conexclop[listed.place]
            where
                listed.attnum = tables.place
                and listed.place <= indexes.indnkeyatts
                and (not indexes.indisexclusion or operators.oprname = '=')
        )
),

widened as (
    select
        *,
        case
            when constraint_name is not null and not indisexclusion
                then replace(
                    constraint_definition,
                    '(' || columns || ')',
                    '(' || columns || ', ' || column_name || ')'
                )
            when constraint_name is null
                then replace(
                    index_definition, ' USING btree (', ' USING btree (' || column_name || ', '
                )
        end as becomes
    from keys
),

changed_keys as (
    select
        3 as step,
        full_name,
        coalesce(constraint_name, index_name) as name,
        coalesce(becomes, 'dropped') as becomes,
        null as refers_to,
        case
            when constraint_name is null
                then array['drop index ' || full_index_name, becomes]
            else array_remove(
                array[
                    format('alter table %s drop constraint %I', full_name, constraint_name),
                    format('alter table %s add constraint %I ', full_name, constraint_name)
                    || becomes
                ],
                null
            )
        end as statements,
        case
            when becomes is null then 'no server sees all rows'
            else format(
                'no server sees all rows: unique for each %s, no longer in the whole table',
                column_name
            )
        end as reason
    from widened
)

select
    step,
    full_name,
    name,
    becomes,
    refers_to,
    statements,
    reason
from foreign_keys
union all
select
    step,
    full_name,
    name,
    becomes,
    refers_to,
    statements,
    reason
from triggers
union all
select
    step,
    full_name,
    name,
    becomes,
    refers_to,
    statements,
    reason
from changed_keys
order by step, full_name, name
