-- All that was committed before this moment, by the clock of the server it comes from, is in the
-- mirror.
create or replace function split.mirror_as_of()
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $as_of$
declare
    name text := (select database from split.service);
begin
    return (
        select min(at) from split.heartbeats
        where service = name or starts_with(service, name || ' from ')
    );
end
$as_of$;

-- Keeps TRUNCATE out until the transaction ends, and refuses if one came after the snapshot: then
-- the table looks empty in the snapshot, whatever it held. Such a table has another file than the
-- snapshot's catalogue names. Never waits, since replication may hold one table and wait for
-- another.
create or replace function split.hold_mirror()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $hold$
declare
    mirror regnamespace := (select quote_ident(service.mirror) from split.service)::regnamespace;
    mirrors text := (
        select string_agg(oid::regclass::text, ', ') from pg_class
        where relnamespace = mirror and relkind = 'r'
    );
    emptied text;
begin
    begin
        execute format('lock table %s in access share mode nowait', mirrors);
    exception
        when lock_not_available then
            raise exception using
                errcode = 'serialization_failure',
                message = 'A table of the mirror is being truncated: ' || sqlerrm,
                hint = 'Try again.';
    end;
    select oid::regclass::text into emptied from pg_class
    where
        relnamespace = mirror
        and relkind = 'r'
        and relfilenode <> pg_relation_filenode(oid);
    if emptied is not null then
        raise exception using
            errcode = 'serialization_failure',
            message = format('%s was truncated after this transaction''s snapshot was taken.', emptied),
            hint = 'Try again.';
    end if;
end
$hold$;

-- Keeps the service's team from rewriting a table that is captured, such as by another type of a
-- column, until the transaction ends; and refuses if that happened after the snapshot: then the
-- table looks empty in it, too, and all its rows would be deleted from the mirror.
create or replace function split.hold_own_tables()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $hold$
declare
    captured oid[] := array(
        select triggers.tgrelid
        from split.service
        inner join pg_class as class
            on class.relnamespace = to_regnamespace(quote_ident(service.database))
        inner join pg_trigger as triggers on triggers.tgrelid = class.oid
        where service.switched_at is not null and triggers.tgname = 'split_capture'
    );
    held text := (
        select string_agg(there.oid::regclass::text, ', ' order by there.oid)
        from unnest(captured) as there (oid)
        where pg_relation_filenode(there.oid) is not null  -- else it is gone
    );
    rewritten text;
begin
    if held is null then
        return;
    end if;
    execute format('lock table %s in access share mode', held);
    select oid::regclass::text into rewritten from pg_class
    where oid = any(captured) and relfilenode <> pg_relation_filenode(oid);
    if rewritten is not null then
        raise exception using
            errcode = 'serialization_failure',
            message = format('%s was rewritten after this transaction''s snapshot was taken.', rewritten),
            hint = 'Try again.';
    end if;
end
$hold$;

-- A trigger function that refuses every writer but split.sync(). Triggers of this kind do not fire
-- for replication. Runs as the schema's owner, since whoever it refuses may lack the right to ask.
create or replace function split.refuse_edits()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $refuse$
begin
    if split.is_syncing() then
        return null;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format(
            '%I.%I is a mirror of the monolith''s table: replication writes it, and nobody else.',
            tg_table_schema, tg_table_name
        ),
        hint = 'Change the row in the monolith, and replication changes it here.';
end
$refuse$;

-- Puts the triggers on a mirror table, named without its schema. Skips a table that has not landed
-- yet; the next build finds it. Skips a completed service's own table, too: replication no longer
-- writes it. Idempotent. Triggers are only made where they are missing, since making one waits for
-- the transaction that replication is applying. What such a table holds was never captured, so
-- those that follow it are compared with all of it.
create or replace function split.watch(mirror text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $watch$
declare
    schema text := (select service.mirror from split.service);
    relation regclass := to_regclass(format('%I.%I', schema, mirror));
begin
    if relation is null or exists (
        select from pg_trigger where tgrelid = relation and tgname = 'split_capture'
    ) or exists (
        select from split.mirror_tables as known cross join split.service as here
        where
            known.table_name = watch.mirror
            and known.shared_definition is not null and here.completed_at is not null
    ) then
        return;
    end if;
    execute format(
        'create trigger split_capture after insert or update or delete on %s'
        ' for each row execute function split.%I()', relation, 'capture_' || schema || '_' || mirror
    );
    execute format(
        'create trigger split_capture_truncate after truncate on %s'
        ' for each statement execute function split.%I()', relation, 'capture_' || schema || '_' || mirror
    );
    execute format('alter table %s enable replica trigger split_capture', relation);
    execute format('alter table %s enable replica trigger split_capture_truncate', relation);
    execute format(
        'create trigger split_refuse_edits before insert or update or delete or truncate on %s'
        ' for each statement execute function split.refuse_edits()', relation
    );
    update split.service_tables set is_stale = true
    where format('%s.%s', schema, mirror) = any(follows);
end
$watch$;

-- Builds an index on a mirror table, named without its schema, and its statistics. Skips a table
-- that has not landed yet. Idempotent.
create or replace function split.index_mirror(mirror text, name text, key text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $index$
declare
    schema text := (select service.mirror from split.service);
    relation regclass := to_regclass(format('%I.%I', schema, mirror));
    index_name text := format('split_%s_%s', mirror, name);
begin
    if relation is null or to_regclass(format('%I.%I', schema, index_name)) is not null then
        return;
    end if;
    execute format('create index %I on %s ((%s))', index_name, relation, key);
    execute format('analyze %s', relation);
end
$index$;
