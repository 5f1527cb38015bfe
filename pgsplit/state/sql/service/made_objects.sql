-- The columns that a query gives, with their types. Plans the query and reads no row.
create or replace function split.columns_of(query text)
returns table (name text, type text)
language plpgsql
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
as $columns$
begin
    execute format(E'create temporary table split_shape as select * from (%s\n) as given limit 0', query);
    return query
    select attname::text, format_type(atttypid, atttypmod) from pg_attribute
    where attrelid = 'pg_temp.split_shape'::regclass and attnum > 0
    order by attnum;
    drop table pg_temp.split_shape;
end
$columns$;

-- All about a table that could keep a sync from writing it, or a reverse model from reading it. Our
-- own triggers are left out: their functions are in the schema split.
create or replace function split.objects_of(relation regclass)
returns table (kind text, name text, definition text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $objects$
    select
        'column', attname::text,
        format_type(atttypid, atttypmod)
        || case when attgenerated <> '' then ' generated' when attidentity <> '' then ' identity' else '' end
        || case when attnotnull then ' not null' else '' end
    from pg_attribute
    where attrelid = relation and attnum > 0 and not attisdropped
    union all
    select 'constraint', conname, pg_get_constraintdef(oid) from pg_constraint
    where conrelid = relation and contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select 'referenced by', format('%s %I', conrelid::regclass, conname), pg_get_constraintdef(oid)
    from pg_constraint
    where confrelid = relation and contype = 'f' and conrelid <> relation and conparentid = 0
    union all
    select 'unique index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index
    where
        indrelid = relation and indisunique
        and not exists (select from pg_constraint where conindid = indexrelid and conrelid = relation)
    union all
    select 'trigger', tgname, pg_get_triggerdef(triggers.oid)
    from pg_trigger as triggers inner join pg_proc on pg_proc.oid = tgfoid
    where
        tgrelid = relation and not tgisinternal and tgenabled <> 'D'
        and pronamespace <> 'split'::regnamespace
    union all
    select 'rule', rulename, pg_get_ruledef(oid) from pg_rewrite where ev_class = relation
    union all
    select 'inheritance', other::regclass::text, other::regclass::text
    from (
        select inhrelid as other from pg_inherits where inhparent = relation
        union all
        select inhparent from pg_inherits where inhrelid = relation
    ) as related
    union all
    select 'persistence', relpersistence::text, relpersistence::text from pg_class where oid = relation
    union all
    select 'owner', quote_ident(pg_get_userbyid(relowner)), '' from pg_class where oid = relation
$objects$;

-- Notes what a table is like, right after it was made. A table that was made before there were
-- such notes gets its columns from its model, and counts as unchanged otherwise.
create or replace function split.note_made(made_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $note$
declare
    made record;
begin
    select * into strict made from split.service_tables where table_name = made_name;
    delete from split.made_objects where table_name = made_name;
    insert into split.made_objects
    select made_name, found.kind, found.name, found.definition
    from split.objects_of(made.table_oid::regclass) as found
    where
        found.kind <> 'column'
        or found.name in (select modelled.name from split.columns_of(made.definition) as modelled);
end
$note$;

-- Tables that an earlier version has made.
select split.note_made(tables.table_name)
from split.service_tables as tables
inner join pg_catalog.pg_class as class on tables.table_oid = class.oid
left join split.made_objects as objects on tables.table_name = objects.table_name
where objects.table_name is null
group by tables.table_name;
