-- The column that is a table's primary key.
create or replace function split.key_of(relation regclass)
returns name
language sql
stable
set search_path = pg_catalog, pg_temp
as $key$
    select attname from pg_index
    inner join pg_attribute on attrelid = indrelid and attnum = indkey[0]
    where indrelid = relation and indisprimary
$key$;

-- The query of the rows of a table that would lose something if its model's rows took their place:
-- a value of the model's that differs, or a value in an own column that an insert would not give.
--
-- With `these`, just rows are looked at whose column `followed` is one of these. A row whose model
-- gives it another value there is unlike anyway.
--
-- Values are compared by binary image, since types such as json have no `=`, and that of others,
-- such as box, is coarser than the value. Only a numeric may have another scale: 5 and 5.00.
create or replace function split.unlike_rows(
    made_name text, followed text default null, these text[] default null
)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $unlike$
declare
    made record;
    shape record;
    listed text := case when these is not null then format('%I = any(%L::text[])', followed, these) end;
begin
    select tables.*, table_oid::regclass as relation, quote_ident(split.key_of(table_oid)) as key
    into strict made
    from split.service_tables as tables
    where table_name = made_name;

    with recursive

    base as (
        select attnum, atttypid as type from pg_attribute where attrelid = made.relation and attnum > 0
        union all
        select attnum, typbasetype from base inner join pg_type on pg_type.oid = type where typtype = 'd'
    ),

    columns as (
        select
            attname, attribute.attnum,
            format_type(atttypid, atttypmod) as type,
            objects.name is not null as is_modelled,
            'numeric'::regtype in (select type from base where base.attnum = attribute.attnum) as is_numeric,
            replace(split_part(objects.definition, ' not null', 1), ' identity', '')
            = format_type(atttypid, atttypmod) as is_alike,
            case when split.is_constant(attrdef.adbin) then pg_get_expr(adbin, adrelid) end as given
        from pg_attribute as attribute
        left join pg_attrdef as attrdef on adrelid = attrelid and adnum = attribute.attnum
        left join split.made_objects as objects
            on objects.table_name = made_name and objects.kind = 'column' and objects.name = attname
        where
            attrelid = made.relation and attribute.attnum > 0 and not attisdropped
            and (attgenerated = '' or objects.name is not null)
    ),

    sides as (
        select
            attnum,
            case
                when not is_modelled and given is null then format(' or actual.%I is distinct from null', attname)
                when is_modelled and is_alike and is_numeric
                    then format(' or actual.%I is distinct from expected.%I', attname, attname)
            end as by_value,
            case
                when not is_modelled or is_alike then format('actual.%I', attname)
                else format('actual.%I::text', attname)
            end as actual,
            case
                when not is_modelled then format('(%s)::%s', given, type)
                when is_alike then format('expected.%I', attname)
                else format('expected.%I::text', attname)
            end as expected
        from columns
    )

    select
        string_agg(actual, ', ' order by attnum) filter (where by_value is null) as actual,
        string_agg(expected, ', ' order by attnum) filter (where by_value is null) as expected,
        string_agg(by_value, '' order by attnum) as by_value
    into shape
    from sides;

    return format(
        $query$
            select actual.*
            from (select * from %s where (%s)%s) as actual
            left join (select * from (%s
            ) as model%s) as expected on actual.%s = expected.%s
            where
                expected.%s is null
                or record_image_ne(row(%s), row(%s))%s
        $query$,
        made.relation, made.owned_rows, ' and ' || listed,
        made.definition, ' where ' || listed, made.key, made.key, made.key,
        shape.actual, shape.expected, shape.by_value
    );
end
$unlike$;

-- Whether a default gives the same value each time, and calls no function but PostgreSQL's own.
create or replace function split.is_constant(expression pg_node_tree)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $constant$
    select
        expression::text !~ '\{(NEXTVALUEEXPR|SQLVALUEFUNCTION|COERCETODOMAIN|COERCEVIAIO)'
        and not exists (
            select from regexp_matches(expression::text, ':(?:op)?funcid (\d+)', 'g') as called (oids)
            left join pg_proc on pg_proc.oid = oids[1]::oid
            where pg_proc.oid is null or pg_proc.oid >= 16384 or provolatile <> 'i'
        )
$constant$;

-- split.try_to_follow() tries what a sync and a rollback do with each of the service's tables, on
-- no row, and says what fails.
--
-- The caller's transaction holds split.turn and is rolled back.
create or replace function split.try_to_follow()
returns table (table_name text, problem text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $try$
declare
    made record;
begin
    delete from split.changes;
    set constraints all deferred;
    perform set_config('split.is_syncing', 'on', true);
    for made in
        select tables.table_name as name, table_oid::regclass as relation
        from split.service_tables as tables
        where tables.owned_rows <> 'false'
        order by 1
    loop
        begin
            execute 'explain ' || split.unlike_rows(made.name);
            execute (
                select format(
                    'explain insert into %s as kept (%s) select %s from %s where false'
                    ' on conflict (%I) do update set (%s) = row(%s)',
                    made.relation, listed, listed, made.relation, key, listed, excluded
                )
                from (
                    select
                        string_agg(quote_ident(name), ', ' order by name) as listed,
                        string_agg('excluded.' || quote_ident(name), ', ' order by name) as excluded
                    from split.made_objects as objects
                    where objects.table_name = made.name and kind = 'column'
                ) as columns
                cross join (select split.key_of(made.relation) as key) as key
            );
            execute format('select * from split.%I(false)', 'sync_' || made.name);
        exception
            when lock_not_available then
                raise;
            when others then
                table_name := made.name;
                problem := sqlerrm;
                return next;
        end;
    end loop;
end
$try$;

revoke execute on function split.try_to_follow() from public;
