-- Whether every value of a column fits into the type that the column had.
create or replace function split.fits(type oid, modifier integer, was text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $fits$
declare
    is_now text := format_type(type, modifier);
    base oid := (
        select case when typtype = 'd' then typbasetype else oid end from pg_type where oid = type
    );
    before regtype := to_regtype(was);
    is_wide boolean := format_type(before, null) = was;
begin
    return coalesce(
        is_now = was
        or is_wide and (base = before or before = 'text'::regtype and (select typtype = 'e' from pg_type where oid = base))
        or is_wide and exists (
            select from pg_cast where castsource = base and casttarget = before and castcontext = 'i'
        )
        or base = before
        and (regexp_match(is_now, '^[^(]*\((\d+)\)'))[1]::integer <= (regexp_match(was, '^[^(]*\((\d+)\)'))[1]::integer,
        false
    );
end
$fits$;

-- split.shared_changes() finds what has been changed in a completed service's tables that others
-- share. It finds nothing else. Reads only the catalogue.
--
-- | returns    |                                                        |
-- |------------|--------------------------------------------------------|
-- | mirrored   | the mirror's table that others share columns of        |
-- | table_name | the service's table                                    |
-- | what       | the change, and who shares what comes from there       |
-- | hint       | the statement that fixes it                            |
create or replace function split.shared_changes()
returns table (mirrored text, table_name text, what text, hint text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $changes$
#variable_conflict use_column
declare
    problem text;
    one record;
begin
    if (select completed_at from split.service) is null then
        return;
    end if;
    return query
    with

    here as (
        select
            service.database, service.mirror, quote_ident(pg_get_userbyid(nspowner)) as owner, nspowner,
            (select rolsuper or rolbypassrls from pg_roles where oid = nspowner) as sees_all
        from split.service inner join pg_namespace on nspname = 'split'
    ),

    columns as (
        select
            read.table_name as mirror_table, read.service_table, read.service_column,
            array_agg(distinct format('%I.%I.%I', here.mirror, read.table_name, read.column_name)) as feeds,
            array_agg(distinct consumer) as consumers
        from split.shared_reads as read
        inner join split.shared_columns as known using (table_name, column_name)
        cross join unnest(known.services) as consumer
        cross join here
        group by 1, 2, 3
    ),

    tables as (
        select
            feeding.*,
            format('%I.%I', here.database, feeding.service_table) as name,
            to_regclass(format('%I.%I', here.database, feeding.service_table)) as relation,
            made.table_oid
        from (
            select
                columns.mirror_table, columns.service_table,
                string_agg(distinct feed, ', ') as feeds, string_agg(distinct consumer, ', ') as consumers
            from columns cross join unnest(columns.feeds) as feed cross join unnest(columns.consumers) as consumer
            group by 1, 2
        ) as feeding
        cross join here
        left join split.service_tables as made on made.table_name = feeding.service_table
    ),

    there as (
        select tables.*, class.relrowsecurity, class.relforcerowsecurity, class.relowner
        from tables inner join pg_class as class on class.oid = tables.relation
    ),

    read as (
        select
            there.mirror_table, there.service_table, there.name, there.relation, columns.service_column,
            array_to_string(columns.feeds, ', ') as feeds, array_to_string(columns.consumers, ', ') as consumers,
            attribute.attname, attribute.atttypid, attribute.atttypmod,
            regexp_replace(objects.definition, '( generated| identity| not null)+$', '') as was
        from there
        inner join columns using (mirror_table, service_table)
        left join split.made_objects as objects
            on objects.table_name = there.service_table and objects.kind = 'column'
            and objects.name = columns.service_column
        left join pg_attribute as attribute
            on attribute.attrelid = there.relation and attribute.attname = columns.service_column
            and attribute.attnum > 0
    )

    select
        tables.mirror_table, tables.service_table,
        case
            when class.oid is null then format('table %s has been dropped', tables.name)
            else format('table %s is called %s now', tables.name, class.oid::regclass)
        end || format('; %s share what comes from it: %s', tables.consumers, tables.feeds),
        case
            when class.oid is null then format('Restore %s from a backup: runner.py backups', tables.name)
            else concat_ws(
                ' ',
                case when class.relnamespace <> to_regnamespace(quote_ident(here.database))
                    then format('alter table %s set schema %I;', class.oid::regclass, here.database) end,
                case when class.relname <> tables.service_table
                    then format('alter table %I.%I rename to %I;', here.database, class.relname, tables.service_table) end
            )
        end
    from tables cross join here
    left join pg_class as class on class.oid = tables.table_oid
    where tables.relation is null
    union all
    select
        read.mirror_table, read.service_table,
        format('column %s.%I is gone', read.name, read.service_column)
        || coalesce('; perhaps it is ' || quote_ident(renamed.attname) || ' now', '')
        || format('. %s share what comes from it: %s', read.consumers, read.feeds),
        case
            when renamed.attname is not null
                then format('alter table %s rename column %I to %I;', read.name, renamed.attname, read.service_column)
            else format(
                'alter table %s add column %I %s; select split.refill(%L, %L);',
                read.name, read.service_column, read.was, read.service_table, read.service_column
            )
        end
    from read
    left join lateral (
        select attribute.attname from pg_attribute as attribute
        where
            attribute.attrelid = read.relation and attribute.attnum > 0 and not attribute.attisdropped
            and (read.was is null or format_type(attribute.atttypid, attribute.atttypmod) = read.was)
            and not exists (
                select from split.made_objects as objects
                where
                    objects.table_name = read.service_table and objects.kind = 'column'
                    and objects.name = attribute.attname
            )
        order by attribute.attnum
        limit 1
    ) as renamed on true
    where read.attname is null
    union all
    select
        read.mirror_table, read.service_table,
        format(
            'column %s.%I is %s instead of %s, and not every value fits. %s share what comes from it: %s',
            read.name, read.service_column, format_type(read.atttypid, read.atttypmod), read.was,
            read.consumers, read.feeds
        ),
        format(
            'alter table %s alter column %I type %s using %I::%s;',
            read.name, read.service_column, read.was, read.service_column, read.was
        )
    from read
    where read.attname is not null and not split.fits(read.atttypid, read.atttypmod, coalesce(read.was, format_type(read.atttypid, read.atttypmod)))
    union all
    select
        there.mirror_table, there.service_table,
        format('table %s has no primary key; %s share its rows by it: %s', there.name, there.consumers, there.feeds),
        format('alter table %s add %s;', there.name, objects.definition)
    from there
    inner join split.made_objects as objects
        on objects.table_name = there.service_table and objects.kind = 'constraint'
        and objects.definition like 'PRIMARY KEY%'
    where not exists (select from pg_index where indrelid = there.relation and indisprimary)
    union all
    select
        there.mirror_table, there.service_table,
        format(
            'the trigger %s of %s is %s, so %s do not hear of changes: %s', wanted.name, there.name,
            case when triggers.tgname is null then 'gone' else 'disabled' end, there.consumers, there.feeds
        ),
        format('select split.capture_again(%L);', there.service_table)
    from there
    cross join (values ('split_capture'), ('split_capture_truncate')) as wanted (name)
    left join pg_trigger as triggers on triggers.tgrelid = there.relation and triggers.tgname = wanted.name
    where triggers.tgname is null or triggers.tgenabled not in ('O', 'A')
    union all
    select
        there.mirror_table, there.service_table,
        format('row security of %s hides rows from %s, and %s would lose them: %s', there.name, here.owner, there.consumers, there.feeds),
        format('alter table %s no force row level security;', there.name)
    from there cross join here
    where
        there.relrowsecurity and not here.sees_all
        and (there.relforcerowsecurity or not pg_has_role(here.nspowner, there.relowner, 'usage'))
    union all
    select
        there.mirror_table, there.service_table,
        format('%s may not read %s; %s share what comes from it: %s', here.owner, there.name, there.consumers, there.feeds),
        format('grant select on %s to %s;', there.name, here.owner)
    from there cross join here
    where not has_table_privilege(here.nspowner, there.relation, 'select')
    order by 1, 2, 3;
    if found then
        return;
    end if;
    for one in
        select known.table_name, known.shared_definition from split.mirror_tables as known
        where known.shared_definition <> '' order by known.table_name
    loop
        problem := split.cannot_run(one.shared_definition);
        if problem is not null then
            mirrored := one.table_name;
            table_name := one.table_name;
            what := format('what others share of %s can''t be read any more: %s', one.table_name, problem);
            hint := 'Undo the last change of the tables that it names.';
            return next;
        end if;
    end loop;
end
$changes$;
