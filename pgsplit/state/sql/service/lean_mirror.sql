-- What a completed service's mirror holds for nobody. The service's tables are the source of those
-- rows since the switch, and only what others share is still kept up to date in the mirror.

-- The tables that a query reads, as PostgreSQL notes them for a view; null if it can't run.
-- Leaves nothing.
create or replace function split.tables_of(query text)
returns regclass[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $tables$
declare
    found regclass[];
begin
    execute format(E'create temporary view split_tables_of as select 1 as one from (%s\n) as query', query);
    found := array(
        select distinct noted.refobjid::regclass
        from pg_rewrite as rules inner join pg_depend as noted on noted.objid = rules.oid
        where
            rules.ev_class = 'pg_temp.split_tables_of'::regclass
            and noted.classid = 'pg_rewrite'::regclass and noted.refclassid = 'pg_class'::regclass
    );
    raise exception using errcode = 'SPL00';
exception
    when sqlstate 'SPL00' then
        return found;
    when syntax_error_or_access_rule_violation then
        return null;
end
$tables$;

-- Who still reads a table of the mirror, or that changes of it wait for a sync; null if neither.
create or replace function split.mirror_needed_by(mirrored text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $needed$
declare
    here split.service := (select service from split.service);
    relation regclass := format('%I.%I', here.mirror, mirrored)::regclass;
    queries jsonb := (
        select coalesce(jsonb_object_agg('the table ' || table_name, definition), '{}')
        from split.service_tables where owned_rows <> 'true'
    );
    tests jsonb;
    query record;
    read regclass[];
begin
    if to_regclass('split.parity_tests') is not null then
        execute 'select jsonb_object_agg(''the parity test '' || name, definition) from split.parity_tests' into tests;
        queries := queries || coalesce(tests, '{}');
    end if;
    for query in select key as what, value as definition from jsonb_each_text(queries) order by key loop
        read := split.tables_of(query.definition);
        -- What can't be asked any more reads whatever it names.
        if relation = any(read) or (read is null and strpos(query.definition, mirrored) > 0) then
            return query.what;
        end if;
    end loop;
    return (
        select string_agg(found.what, ', ' order by found.what)
        from (
            select 'the publication ' || quote_ident(pubname) as what from pg_publication_tables
            where
                schemaname = here.mirror and tablename = mirrored
                and not starts_with(pubname, 'split_')
            union
            select format('the %s', pg_describe_object('pg_class'::regclass, rules.ev_class, 0))
            from pg_depend as noted inner join pg_rewrite as rules on rules.oid = noted.objid
            where
                noted.classid = 'pg_rewrite'::regclass
                and noted.refclassid = 'pg_class'::regclass and noted.refobjid = relation
            union
            select format('the foreign key %I of %s', conname, conrelid::regclass) from pg_constraint
            where contype = 'f' and confrelid = relation and conrelid <> relation
            union
            select 'changes that no sync has applied' from split.mirror_tables as known
            where
                known.table_name = mirrored
                and (
                    known.is_stale and known.shared_definition <> ''
                    or exists (
                        select from split.changes
                        where
                            changed_table = format('%s.%s', here.mirror, mirrored)
                            or (known.shared_definition = '' and changed_table = any(known.follows))
                    )
                )
        ) as found
    );
end
$needed$;

-- The columns of a table of the mirror that nobody shares; all if nobody shares any.
create or replace function split.unshared_columns(mirrored text)
returns name[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $unshared$
    select array_agg(attname order by attnum)
    from split.service
    inner join pg_attribute on attrelid = to_regclass(format('%I.%I', service.mirror, mirrored))
    where
        attnum > 0 and not attisdropped
        and attname not in (select column_name from split.shared_columns where table_name = mirrored)
        and not exists (
            select from pg_publication_tables
            where schemaname = service.mirror and tablename = mirrored and attname = any(attnames)
        )
$unshared$;

-- The tables of a completed service's mirror that hold rows, or values, for nobody.
--
-- | returns    |                                                                            |
-- |------------|----------------------------------------------------------------------------|
-- | mirrored   | a table of the mirror, of which nobody shares anything or not all columns  |
-- | is_whole   | none of its rows is needed                                                 |
-- | needed_by  | who still reads it, so that it stays as it is; null if nobody does          |
-- | bytes      | its size, with all that it holds                                           |
create or replace function split.spare_mirror()
returns table (mirrored text, is_whole boolean, needed_by text, bytes bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $spare$
declare
    is_filled boolean;
    columns name[];
    relation regclass;
    known record;
begin
    for known in
        select tables.table_name, tables.shared_definition, service.mirror
        from split.mirror_tables as tables cross join split.service
        where service.completed_at is not null and tables.shared_definition is not null
        order by tables.table_name
    loop
        relation := to_regclass(format('%I.%I', known.mirror, known.table_name));
        columns := split.unshared_columns(known.table_name);
        continue when relation is null or columns is null;
        is_whole := known.shared_definition = '' and cardinality(columns) = (
            select count(*) from pg_attribute where attrelid = relation and attnum > 0 and not attisdropped
        );
        if is_whole then
            is_filled := pg_relation_size(relation) > 0;
        else
            execute format(
                'select exists (select from %s where num_nonnulls(%s) > 0)', relation,
                (select string_agg(quote_ident(name), ', ') from unnest(columns) as name)
            ) into is_filled;
        end if;
        if is_filled then
            mirrored := known.table_name;
            needed_by := split.mirror_needed_by(mirrored);
            bytes := pg_total_relation_size(relation);
            return next;
        end if;
    end loop;
end
$spare$;

-- Removes what a table of the mirror holds for nobody: all rows, or the values of the columns that
-- nobody shares. The table and its columns stay. Returns the bytes that the disk gets back.
-- Idempotent and atomic: it looks again under the sync lock, and does nothing if somebody needs it.
create or replace function split.empty_mirror(mirrored text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $empty$
declare
    schema text := (select service.mirror from split.service);
    relation regclass := to_regclass(format('%I.%I', schema, mirrored));
    bytes bigint;
    is_whole boolean;
begin
    lock table split.turn in exclusive mode;
    execute format('lock table %s in access exclusive mode', relation);
    select spare.is_whole into is_whole from split.spare_mirror() as spare
    where spare.mirrored = empty_mirror.mirrored and spare.needed_by is null;
    if is_whole is null then
        return 0;
    end if;
    bytes := pg_total_relation_size(relation);
    perform set_config('split.is_syncing', 'on', true);
    if is_whole then
        execute format('truncate %s', relation);
    else
        -- Rewritten in one pass, of which replication to others sends nothing.
        execute (
            select format(
                'alter table %s %s', relation,
                string_agg(
                    format('alter column %1$I type %2$s using null::%2$s', attname, format_type(atttypid, atttypmod)),
                    ', ' order by attnum
                )
            )
            from pg_attribute
            where attrelid = relation and attname = any(split.unshared_columns(mirrored))
        );
    end if;
    perform split.mirror_rewritten();
    perform set_config('split.is_syncing', '', true);
    return bytes - pg_total_relation_size(relation);
end
$empty$;
