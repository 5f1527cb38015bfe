-- split.way_back_differs() finds the rows of a mirror table that its reverse model would change.
--
-- | returns    |                                                             |
-- |------------|-------------------------------------------------------------|
-- | id         | the row's id                                                |
-- | difference | changed, missing (the model yields no such row), or added   |
--
-- It finds none unless a model is wrong; that is what makes reverse replication safe. Rows are
-- compared by binary image, in one snapshot. A row with a change that split.sync() has not applied
-- yet can't be judged and is left out. Of a completed service, only what others share is compared.
-- Reads the mirror and the service's tables once; with `ids` the rows that have these.
create or replace function split.way_back_differs(mirror text, ids text[] default null)
returns table (id text, difference text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $differs$
declare
    schema text := (select service.mirror from split.service);
    model record;
    rebuilt text;
    mirrored text;
    listed text := case when ids is null then '' else format(' where id = any(%L::text[])', ids) end;
    is_completed boolean := (select completed_at is not null from split.service);
begin
    select
        follows,
        case when is_completed then coalesce(shared_definition, definition) else definition end as definition
    into strict model
    from split.mirror_tables where table_name = mirror;
    if model.definition = '' then
        return;
    end if;
    select
        string_agg(format('rebuilt.%I', attname), ', ' order by attnum),
        string_agg(format('mirrored.%I', attname), ', ' order by attnum)
    into rebuilt, mirrored
    from pg_attribute
    where
        attrelid = format('%I.%I', schema, mirror)::regclass and attnum > 0 and not attisdropped
        and attgenerated = ''
        and (
            not is_completed
            or not exists (select from split.shared_columns where table_name = mirror)
            or attname in (select column_name from split.shared_columns where table_name = mirror)
        );
    return query execute format(
        $query$
            with

            compared as (
                select
                    coalesce(rebuilt.id, mirrored.id) as id,
                    case
                        when rebuilt.id is null then 'missing'
                        when mirrored.id is null then 'added'
                        else 'changed'
                    end as difference
                from (select * from (%s
                ) as model%s) as rebuilt
                full join (select * from %I.%I%s) as mirrored on rebuilt.id = mirrored.id
                where
                    rebuilt.id is null or mirrored.id is null
                    or record_image_ne(row(%s), row(%s))
            )

            select * from compared
            where not exists (
                select from split.changes
                where
                    (changes.key = compared.id or changes.key is null)
                    and changes.changed_table = any($1)
            )
        $query$,
        model.definition, listed, schema, mirror, listed, rebuilt, mirrored
    )
    using model.follows || format('%s.%s', schema, mirror);
end
$differs$;

-- split.keep_unlike() quarantines what the service has written and the monolith can't hold.
--
-- | returns    |                                                                 |
-- |------------|-----------------------------------------------------------------|
-- | table_name | a table of the service                                          |
-- | kept_in    | the table of the schema `audit` that its rows were copied to    |
-- | rows       | how many                                                        |
--
-- A rollback calls it before the service's tables follow the monolith again. From then on a row is
-- what the monolith's row yields, and anything else in it is gone, such as the time at which a
-- message was read. So are values in the service's own columns, once their row is written again. A
-- table that loses nothing gets no copy. What is returned is also in split.quarantined. Reads the
-- mirror and the tables once, or only the rows that may have changed since the service was proven;
-- see proof.sql.
--
-- The mirror has to be as it was before anybody wrote to the monolith again. If the caller's
-- snapshot shows later writes, the caller has locked the mirror; then it is rebuilt for the
-- comparison, from the service's tables, which nobody has written since.
--
-- Never fails because of what the service has made of a table: one that can't be compared is copied
-- whole. Runs as the schema's owner, whoever calls it.
create or replace function split.keep_unlike(label text)
returns table (table_name text, kept_in text, rows bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $keep$
declare
    made record;
    since record;
    is_proven boolean;
    unlike jsonb;
    why constant text :=
        'Rows as the service had them before a rollback; the monolith could not hold all of them.';
begin
    perform split.recognize_tables();
    update split.quarantined as kept set is_latest = false where kept.is_latest;
    if exists (
        select from split.changes cross join split.service
        inner join split.mirror_tables as mirrored
            on changes.changed_table = service.mirror || '.' || mirrored.table_name
    ) then
        unlike := split.unlike_before_later_writes();
    end if;
    is_proven := split.proof_problem() is null;
    for made in
        select
            tables.table_name as name, tables.owned_rows, class.oid::regclass as relation,
            split.key_of(class.oid) as key
        from split.service_tables as tables
        inner join pg_class as class on class.oid = tables.table_oid
        where tables.owned_rows <> 'false'
        order by tables.table_name
    loop
        table_name := made.name;
        select found.* into since from (values (true)) as here (is_here)
        left join split.rows_since_proof(made.name) as found on is_proven;
        begin
            select kept.kept_in, kept.rows into kept_in, rows
            from split.quarantine(
                made.name,
                case
                    when unlike is null then split.unlike_rows(made.name, since.column_name, since.ids)
                    else format('select * from %s where %I::text = any($1)', made.relation, made.key)
                end,
                why,
                label,
                array(select jsonb_array_elements_text(unlike -> made.name))
            ) as kept;
        exception
            when syntax_error_or_access_rule_violation or data_exception or integrity_constraint_violation then
                select kept.kept_in, kept.rows into kept_in, rows
                from split.quarantine(
                    made.name,
                    format('select * from %s where %s', made.relation, made.owned_rows),
                    why,
                    label,
                    null
                ) as kept;
        end;
        if kept_in is not null then
            update split.quarantined as kept set is_latest = true
            where kept.kept_in = keep_unlike.kept_in;
            return next;
        end if;
    end loop;
end
$keep$;

revoke execute on function split.keep_unlike(text) from public;

-- The keys of rows to quarantine, by table, as they were before the monolith was written again.
-- What it writes meanwhile to the mirror, it takes back.
create or replace function split.unlike_before_later_writes()
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $unlike$
declare
    made record;
    keys text[];
    found jsonb := '{}';
begin
    begin
        perform set_config('split.is_syncing', 'on', true);
        for made in select tables.table_name from split.mirror_tables as tables order by 1 loop
            execute format('select from split.%I(true)', 'sync_monolith_' || made.table_name);
        end loop;
        for made in
            select tables.table_name as name, split.key_of(class.oid) as key
            from split.service_tables as tables
            inner join pg_class as class on class.oid = tables.table_oid
            where tables.owned_rows <> 'false'
        loop
            execute format(
                'select coalesce(array_agg(%I::text), ''{}'') from (%s) as unlike', made.key, split.unlike_rows(made.name)
            ) into keys;
            found := found || jsonb_build_object(made.name, keys);
        end loop;
        raise exception using errcode = 'SPL00';
    exception
        when sqlstate 'SPL00' then
            return found;
        when syntax_error_or_access_rule_violation or data_exception or integrity_constraint_violation then
            return null;
    end;
end
$unlike$;

-- Lets the service's tables follow the mirror again. The next sync compares the rows that may have
-- changed since they were proven, or all rows of a table if nothing tells.
create or replace function split.follow_again()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow$
declare
    here record;
    is_proven boolean := split.proof_problem() is null;
begin
    select * into here from split.service;
    update split.service set switched_at = null;
    update split.service_tables as made set is_stale = true
    where
        made.owned_rows <> 'false'
        and not (is_proven and exists (select from split.rows_since_proof(made.table_name)));
    insert into split.changes (changed_table, key_name, key)
    select distinct here.mirror || '.' || found.mirrored, 'id', id
    from split.service_tables as made
    cross join lateral split.rows_since_proof(made.table_name) as found
    cross join unnest(found.ids) as id
    where made.owned_rows <> 'false' and not made.is_stale;
end
$follow$;
