-- What other services share of a completed service's tables. From its completion the tables belong
-- to the service's team: only what others share has to stay, and only it is looked at.

-- Why a query can't run any more, because a table, column or operator that it names is gone; null
-- if it can. Plans the query and reads no row.
create or replace function split.cannot_run(query text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $cannot$
begin
    execute E'explain ' || query;
    return null;
exception
    when undefined_column or undefined_table or undefined_function or datatype_mismatch or cannot_coerce then
        return sqlerrm;
end
$cannot$;

-- Marks a column in a query that is only planned; see split.columns_read(). Not immutable, or the
-- planner would replace a call with constants by its result.
create or replace function split.reads(number integer, value anyelement)
returns anyelement
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $reads$
begin
    return value;
end
$reads$;

-- The columns of some of the service's tables: those that are there, and those that were when the
-- table was made. `type` is the type then.
create or replace function split.columns_ever(tables text[])
returns table (
    number integer, table_name text, name text, type text, is_there boolean, is_key boolean
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $ever$
#variable_conflict use_column
begin
    return query
    with

    given as (
        select given.name, to_regclass(format('%I.%I', service.database, given.name)) as relation
        from unnest(tables) as given (name) cross join split.service
    ),

    now as (
        select given.name as given_name, attname::text, format_type(atttypid, atttypmod) as is_now,
            attname = split.key_of(relation) as is_primary
        from given inner join pg_attribute on attrelid = relation
        where attnum > 0 and not attisdropped
    ),

    made as (
        select objects.table_name as made_name, objects.name as made_column,
            regexp_replace(objects.definition, '( generated| identity| not null)+$', '') as was
        from split.made_objects as objects inner join given on given.name = objects.table_name
        where objects.kind = 'column'
    )

    select
        (row_number() over (order by coalesce(given_name, made_name), coalesce(attname, made_column)))::integer,
        coalesce(given_name, made_name), coalesce(attname, made_column), coalesce(was, is_now),
        attname is not null, coalesce(is_primary, false)
    from now full join made on given_name = made_name and attname = made_column;
end
$ever$;

-- The service's tables as common table expressions, for a reverse model's SQL that reads made_TABLE
-- instead of TABLE. With `needed`, the numbers of columns, all other columns are null, so that
-- nothing depends on them. Without it, each column is marked, except keys, by which the planner
-- knows joins.
create or replace function split.as_read(tables text[], needed integer[] default null)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $as_read$
#variable_conflict use_column
begin
    return (
        select string_agg(one.query, E',\n' order by one.table_name)
        from (
            select
                ever.table_name,
                format(
                    '%I as not materialized (select %s %s)',
                    'made_' || ever.table_name,
                    string_agg(
                        case
                            when needed is null and is_key then format('%I', name)
                            when needed is null and is_there
                                then format('split.reads(%s, %I) as %I', number, name, name)
                            when needed is null then format('split.reads(%s, null::%s) as %I', number, type, name)
                            when number = any(needed) then format('%I::%s as %I', name, type, name)
                            else format('null::%s as %I', type, name)
                        end,
                        ', ' order by number
                    ),
                    case
                        when needed is null or bool_or(number = any(needed))
                            then format('from %I.%I', min(service.database), ever.table_name)
                        else 'where false'
                    end
                ) as query
            from split.columns_ever(tables) as ever cross join split.service
            group by ever.table_name
        ) as one
    );
end
$as_read$;

-- The numbers of the columns that a reverse model reads for one of its columns. PostgreSQL's
-- planner tells: it leaves out what can't change the result. Marked columns hide nothing from it
-- that could make this depend on rows or constraints.
create or replace function split.columns_read(model text, tables text[], column_name text)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $read$
#variable_conflict use_column
declare
    plan jsonb;
begin
    execute format(
        E'explain (verbose, format json) with %s select %I from (%s\n) as model',
        split.as_read(tables), column_name, model
    )
    into plan;
    return array(
        select found[1]::integer from regexp_matches(plan::text, 'split\.reads\((\d+), ', 'g') as found
        union
        select number from split.columns_ever(tables) as ever
        cross join split.service
        inner join jsonb_path_query(plan, 'strict $.**') as node
            on node ->> 'Relation Name' = ever.table_name and node ->> 'Schema' = service.database
        where is_key
    );
end
$read$;

-- Notes what others share of a table of the mirror, and the SQL that gives it from the service's
-- tables and depends on nothing else in them.
--
-- | argument | example                              |                                           |
-- |----------|--------------------------------------|-------------------------------------------|
-- | mirrored | customers                            | the mirror's table                        |
-- | model    | select id, … from made_customers     | the reverse model's SQL                   |
-- | tables   | {customers}                          | the service's tables that it reads        |
-- | shared   | {"id": ["shop"], "email": […]}       | who shares which columns; null if nobody  |
create or replace function split.share(mirrored text, model text, tables text[], shared json)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $share$
#variable_conflict use_column
declare
    gone text;
    needed integer[];
begin
    delete from split.shared_columns as known where known.table_name = mirrored;
    if shared is null then
        update split.mirror_tables as known set shared_definition = '' where known.table_name = mirrored;
        return;
    end if;
    insert into split.shared_columns
    select mirrored, given.key, array(select json_array_elements_text(given.value)), given.place
    from json_each(shared) with ordinality as given (key, value, place);
    insert into split.shared_reads
    select mirrored, known.column_name, ever.table_name, ever.name
    from split.shared_columns as known
    cross join lateral split.columns_read(model, tables, known.column_name) as found (numbers)
    inner join split.columns_ever(tables) as ever on ever.number = any(found.numbers)
    where known.table_name = mirrored;

    select
        array_agg(ever.number),
        string_agg(distinct format('%I.%I', ever.table_name, ever.name), ', ') filter (where not ever.is_there)
    into needed, gone
    from split.columns_ever(tables) as ever
    inner join split.shared_reads as read
        on read.table_name = mirrored
        and read.service_table = ever.table_name and read.service_column = ever.name;
    if gone is not null then
        raise exception using
            errcode = 'undefined_column',
            message = format('monolith_%s reads %s for what others share, and that is gone.', mirrored, gone);
    end if;
    update split.mirror_tables as known
    set shared_definition = (
        select format(
            E'with %s\n\nselect %s from (%s\n) as model',
            split.as_read(tables, needed), string_agg(format('%I', column_name), ', ' order by place), model
        )
        from split.shared_columns where table_name = mirrored
    )
    where known.table_name = mirrored;
end
$share$;

-- Notes that this project itself has changed the mirror's tables of the service: the streams of
-- those who share go on proving what they have proven. Called in the transaction that changes them.
create or replace function split.mirror_rewritten()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $rewritten$
begin
    update split.streams as kept
    set
        identity = jsonb_set(
            kept.identity, '{columns}',
            (kept.identity -> 'columns') || coalesce(
                (
                    select jsonb_object_agg(now.key, now.value)
                    from jsonb_each(split.stream_identity(kept.stream) -> 'columns') as now
                    cross join split.service
                    inner join split.mirror_tables as mirrored
                        on now.key = service.mirror || '.' || mirrored.table_name
                ),
                '{}'
            )
        )
    where kept.broken_at is null;
end
$rewritten$;

-- From the completion on, keeps only what others share: ends the capture on the mirror of the
-- service's own tables, which replication no longer writes, and on tables that nobody shares
-- anything of, and lets the mirror's other columns be null, as they are in new rows. Idempotent.
-- Waits for writers only where there is something to do.
create or replace function split.keep_only_shared()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep$
declare
    statement text;
    has_changed boolean := false;
begin
    if exists (select from split.mirror_tables where shared_definition is null)
        or (select completed_at from split.service) is null then
        return;  -- as an earlier version has built it
    end if;
    for statement in
        select format('drop trigger %I on %s', triggers.tgname, triggers.tgrelid::regclass)
        from split.mirror_tables as mirrored
        cross join split.service
        inner join pg_trigger as triggers
            on triggers.tgrelid = to_regclass(format('%I.%I', service.mirror, mirrored.table_name))
        where triggers.tgname in ('split_capture', 'split_capture_truncate')
        union all
        select format('drop trigger %I on %s', triggers.tgname, tables.table_oid::regclass)
        from split.service_tables as tables
        inner join pg_trigger as triggers on triggers.tgrelid = tables.table_oid
        cross join split.service
        where
            triggers.tgname in ('split_capture', 'split_capture_truncate', 'split_refuse_new_key')
            and not exists (
                select from split.mirror_tables as mirrored
                where
                    mirrored.shared_definition <> ''
                    and format('%s.%s', service.database, tables.table_name) = any(mirrored.follows)
            )
        union all
        select concat(
            format('alter table %s ', attrelid::regclass),
            concat_ws(
                ', ',
                case when attnotnull then format('alter column %I drop not null', attname) end,
                case when typtype = 'd' then format(
                    'alter column %I type %s', attname, format_type(typbasetype, typtypmod)
                ) end
            )
        )
        from split.mirror_tables as mirrored
        cross join split.service
        inner join pg_attribute
            on attrelid = to_regclass(format('%I.%I', service.mirror, mirrored.table_name))
            and attnum > 0 and not attisdropped
        inner join pg_type on pg_type.oid = atttypid
        where
            mirrored.shared_definition <> ''
            and (attnotnull or typtype = 'd')
            and not exists (
                select from split.shared_columns as shared
                where shared.table_name = mirrored.table_name and shared.column_name = attname
            )
    loop
        execute statement;
        has_changed := true;
    end loop;
    if has_changed then
        perform split.triggers_changed();
        perform split.mirror_rewritten();
    end if;
end
$keep$;

-- Captures again what is written to a table that others share columns of, and has the next sync
-- compare all rows, since nothing tells what was written meanwhile. Idempotent.
create or replace function split.capture_again(made_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $again$
declare
    schema text := (select database from split.service);
    relation regclass := format('%I.%I', schema, made_name)::regclass;
    one record;
begin
    for one in
        select * from (values
            ('split_capture', 'insert or update or delete', 'row'), ('split_capture_truncate', 'truncate', 'statement')
        ) as wanted (name, events, level)
    loop
        if not exists (select from pg_trigger where tgrelid = relation and tgname = one.name) then
            execute format(
                'create trigger %I after %s on %s for each %s %s execute function split.%I()',
                one.name, one.events, relation, one.level, split.unless_syncing(),
                format('capture_%s_%s', schema, made_name)
            );
        end if;
        execute format('alter table %s enable always trigger %I', relation, one.name);
    end loop;
    update split.mirror_tables as mirrored set is_stale = true
    where format('%s.%s', schema, made_name) = any(mirrored.follows);
end
$again$;
