-- What has changed since all rows of the service's tables were proven, and whether that is all.
--
-- A whole verification has compared every row. From then on replication and syncs note the keys of
-- all that they change, and triggers note the keys of what anybody else writes to the service's
-- tables. So as long as nothing else happened, a check needs to look at these keys only. What else
-- happens shows in split.proof_evidence(); split.proof_problem() says what it is. Then all rows are
-- compared again.

-- A table with all its partitions.
create or replace function split.parts(relation oid)
returns oid[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $parts$
    select array(select relation union select relid from pg_partition_tree(relation))
$parts$;

-- Whether a table notes the keys of all rows that somebody writes, whoever it is: the capture fires
-- under session_replication_role = replica, too. A partition may be written by itself.
create or replace function split.is_watched(relation oid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $watched$
    select
        (
            select count(*) = 2 and bool_and(tgenabled = 'A') from pg_trigger
            where tgrelid = relation and tgname in ('split_capture', 'split_capture_truncate')
        )
        and not exists (
            select from unnest(split.parts(relation)) as part
            where not exists (
                select from pg_trigger
                where tgrelid = part and tgname = 'split_capture' and tgenabled = 'A'
            )
        )
$watched$;

-- Captures what is written to the service's tables that reverse models follow, by whomever, from
-- their build on. Until the switch only syncs write them, which the triggers ignore, so that a row
-- that anybody else has written is known. Leaves a table alone that has the triggers, or whose
-- service is completed. Idempotent.
create or replace function split.capture_own_tables()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $capture$
declare
    made record;
    is_not_sync text := split.unless_syncing();
begin
    lock table split.resting_triggers in share update exclusive mode;  -- models are built side by side
    for made in
        select tables.relation, tables.name
        from (
            select distinct
                to_regclass(format('%I.%I', split_part(source, '.', 1), split_part(source, '.', 2))) as relation,
                replace(source, '.', '_') as name
            from split.mirror_tables
            cross join unnest(follows) as source
            cross join split.service
            where service.completed_at is null
        ) as tables
        where tables.relation is not null and not exists (
            select from pg_trigger where tgrelid = tables.relation and tgname = 'split_capture'
        )
        order by tables.name
    loop
        execute format(
            'create trigger split_capture after insert or update or delete on %s for each row %s'
            ' execute function split.%I()', made.relation, is_not_sync, 'capture_' || made.name
        );
        execute format(
            'create trigger split_capture_truncate after truncate on %s for each statement %s'
            ' execute function split.%I()', made.relation, is_not_sync, 'capture_' || made.name
        );
        execute format('alter table %s enable always trigger split_capture', made.relation);
        execute format('alter table %s enable always trigger split_capture_truncate', made.relation);
    end loop;
end
$capture$;

-- What a proof depends on besides rows: the server, the models, and the service's and the mirror's
-- tables with their files, columns and capturing triggers. Whoever replaces, rewrites or restores
-- one of them, or disables a trigger for a while, can't give it the same oid, file or row version.
create or replace function split.proof_evidence()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $evidence$
    select jsonb_build_object(
        'server', (select system_identifier::text from pg_control_system()),
        'timeline', left(pg_walfile_name(pg_current_wal_lsn()), 8),
        'database', (select oid::text from pg_database where datname = current_database()),
        'models',
        (
            select jsonb_object_agg(name, md5(model))
            from (
                select database || '.' || table_name as name, concat_ws(' ', definition, followed, owned_rows, tombstone) as model
                from split.service_tables cross join split.service
                union all
                select mirror || '.' || table_name, concat_ws(' ', definition, followed)
                from split.mirror_tables cross join split.service
            ) as models
        ),
        'tables',
        (
            select jsonb_object_agg(
                namespace.nspname || '.' || class.relname,
                jsonb_build_object(
                    'oid', class.oid::text,
                    'files',
                    (
                        select jsonb_object_agg(file.oid::text, concat_ws(' ', file.relfilenode, inherits.xmin))
                        from unnest(split.parts(class.oid)) as part
                        inner join pg_class as file on file.oid = part
                        left join pg_inherits as inherits on inherits.inhrelid = part
                    ),
                    'heirs', (select count(*) from pg_inherits where inhparent = class.oid),
                    'columns',
                    (
                        select jsonb_object_agg(attname, concat_ws(' ', attnum, attribute.xmin))
                        from pg_attribute as attribute
                        where attrelid = class.oid and attnum > 0 and not attisdropped
                    ),
                    'triggers',
                    (
                        select jsonb_object_agg(
                            concat_ws(' ', tgrelid, tgname), concat_ws(' ', triggers.oid, triggers.xmin, tgenabled)
                        )
                        from unnest(split.parts(class.oid)) as part
                        inner join pg_trigger as triggers on triggers.tgrelid = part
                        inner join pg_proc on pg_proc.oid = tgfoid
                        where
                            not tgisinternal
                            and (
                                starts_with(tgname, 'split_capture') or tgname = 'split_refuse_edits'
                                -- What others' triggers write during a sync is not captured.
                                or pronamespace <> 'split'::regnamespace
                            )
                    )
                )
            )
            from split.service
            inner join pg_namespace as namespace on namespace.nspname in (service.database, service.mirror)
            inner join pg_class as class on class.relnamespace = namespace.oid
            where
                (
                    namespace.nspname = service.mirror and class.relkind in ('r', 'p')
                    and not class.relispartition
                )
                or class.oid in (select table_oid from split.service_tables)
        )
    )
$evidence$;

-- Why what is noted is not all that may have changed since the last proof; null if it is.
create or replace function split.proof_problem()
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $problem$
declare
    kept record;
    now jsonb;
    said text;
begin
    select * into kept from (values (true)) as here (is_here) left join split.proof on true;
    if (select completed_at is not null from split.service) then
        return 'the service is completed';
    elsif kept.proven_at is null then
        return 'no verification has proven all rows yet';
    elsif exists (select from split.service_tables where followed is null) then
        return 'an earlier version has built the tables';
    elsif kept.keys > kept.most then
        return format('more than %s keys have changed since all rows were proven', kept.most);
    end if;
    select 'all rows of ' || changed_table || ' may have changed' into said
    from split.changes_since_proof
    where key is null
    limit 1;
    if said is not null then
        return said;
    end if;
    now := split.proof_evidence();
    if (now - 'tables' - 'models') <> (kept.evidence - 'tables' - 'models') then
        return 'the database is another one, or its server has failed over, or was restored';
    end if;
    select string_agg(coalesce(was.key, is_now.key), ', ' order by coalesce(was.key, is_now.key)) into said
    from jsonb_each(kept.evidence -> 'models') as was
    full join jsonb_each(now -> 'models') as is_now on was.key = is_now.key
    where was.value is distinct from is_now.value;
    if said is not null then
        return 'the model has changed of ' || said;
    end if;
    select string_agg(
        format('%s (%s)', coalesce(was.key, is_now.key), (
            select coalesce(string_agg(parts.key, ', ' order by parts.key), 'the table')
            from jsonb_each(was.value) as parts
            where parts.value is distinct from is_now.value -> parts.key
        )), ', ' order by coalesce(was.key, is_now.key)
    ) into said
    from jsonb_each(kept.evidence -> 'tables') as was
    full join jsonb_each(now -> 'tables') as is_now on was.key = is_now.key
    where was.value is distinct from is_now.value;
    if said is not null then
        return 'somebody has altered, rewritten or replaced ' || said;
    end if;
    return null;
end
$problem$;

-- The ids of the rows of a mirror table that may have changed since the proof, or whose rows in the
-- service's tables may have; null if nothing tells. What tells is that all tables that its
-- reverse model reads are made from this table alone, row by row, and note who writes them.
create or replace function split.ids_since_proof(mirrored text)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $ids$
declare
    here record;
    known jsonb := (select followed from split.mirror_tables where table_name = mirrored);
begin
    select mirror || '.' || mirrored as source, database into here from split.service;
    if known is null or exists (
        select from jsonb_to_recordset(known) as reads ("table" text, key text, "column" text)
        left join split.service_tables as made on reads."table" = here.database || '.' || made.table_name
        where
            reads."column" <> 'id'
            or made.followed is distinct from
            jsonb_build_array(jsonb_build_object('table', here.source, 'key', 'id', 'column', reads.key))
            or not split.is_watched(made.table_oid)
    ) or exists (
        select from split.changes_since_proof as noted
        where noted.key is null and (
            noted.changed_table = here.source
            or noted.changed_table in (
                select reads."table" from jsonb_to_recordset(known) as reads ("table" text)
            )
        )
    ) then
        return null;
    end if;
    return (
        select coalesce(array_agg(distinct noted.key), '{}')
        from split.changes_since_proof as noted
        where
            (noted.changed_table = here.source and noted.key_name = 'id')
            or (noted.changed_table, noted.key_name) in (
                select reads."table", reads.key
                from jsonb_to_recordset(known) as reads ("table" text, key text)
            )
    );
end
$ids$;

-- The same for one of the service's own tables: the ids of the mirror table that it follows, and by
-- which of its columns. No row if nothing tells.
create or replace function split.rows_since_proof(made_name text)
returns table (mirrored text, column_name text, ids text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $rows$
    select known.table_name, reads."column", found.ids
    from split.service_tables as made
    cross join split.service
    cross join jsonb_to_recordset(made.followed) as reads ("table" text, "column" text)
    inner join split.mirror_tables as known
        on reads."table" = service.mirror || '.' || known.table_name
        and service.database || '.' || made.table_name = any(known.follows)
    cross join lateral (select split.ids_since_proof(known.table_name) as ids) as found
    where made.table_name = made_name and found.ids is not null
$rows$;

-- By column, the keys of the rows of one of the service's tables that may have changed since the
-- proof: of what its model follows, and of what somebody else than a sync has written. Null if
-- nothing tells.
create or replace function split.touched_since_proof(made_name text)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $touched$
declare
    made record;
begin
    select tables.*, service.database || '.' || tables.table_name as name into strict made
    from split.service_tables as tables cross join split.service
    where tables.table_name = made_name;
    if made.followed is null or not split.is_watched(made.table_oid) or exists (
        select from split.changes_since_proof as noted
        left join pg_attribute on attrelid = made.table_oid and attname = noted.key_name
        where
            (noted.changed_table = made.name and attname is null)
            or (noted.key is null and noted.changed_table = any(made.follows || made.name))
    ) then
        return null;
    end if;
    return (
        select coalesce(jsonb_object_agg(found.name, found.keys), '{}')
        from (
            select touched.name, jsonb_agg(distinct touched.key) as keys
            from (
                select follows."column" as name, noted.key
                from jsonb_to_recordset(made.followed) as follows ("table" text, key text, "column" text)
                inner join split.changes_since_proof as noted
                    on noted.changed_table = follows."table" and noted.key_name = follows.key
                union all
                select noted.key_name, noted.key from split.changes_since_proof as noted
                where noted.changed_table = made.name
            ) as touched
            group by touched.name
        ) as found
    );
end
$touched$;

-- Begins a verification: what syncs note from here on stays, should it prove all rows. `goes_on`:
-- it continues one that was interrupted, and what was noted since that one began stays, too.
create or replace function split.begin_proof(goes_on boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = 0
as $begin$
begin
    lock table split.turn in exclusive mode;  -- so each sync has ended or sees this
    insert into split.proof default values on conflict do nothing;
    update split.proof
    set
        epoch = epoch + 1,
        begun_epoch = epoch + 1,
        begun_evidence = split.proof_evidence(),
        -- What was not noted is not proven by looking at what was.
        proven_at = case when keys <= most then proven_at end,
        keys = case when keys <= most then keys else 0 end,
        most = (
            select greatest(max(reltuples) / 8, 100000) from split.service_tables
            inner join pg_class on pg_class.oid = table_oid
        )
    where not goes_on or begun_epoch is null;
end
$begin$;

-- Ends a verification that has found every row right: of all rows, or of those that had changed.
-- `rebuilds`: the mirror's tables whose reverse models yield what is there, row by row. False if
-- something has happened meanwhile, so that it proves nothing.
create or replace function split.end_proof(is_whole boolean, rebuilds text[])
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = 0
as $end$
begin
    lock table split.turn in exclusive mode;
    update split.proof
    set
        evidence = begun_evidence,
        proven_at = case when is_whole then clock_timestamp() else proven_at end,
        checked_at = clock_timestamp(),
        rebuilt = case when is_whole then rebuilds else rebuilt end,
        begun_epoch = null
    where begun_evidence = split.proof_evidence();
    if not found then
        return false;
    end if;
    delete from split.unproven where unproven.epoch < (select proof.epoch from split.proof);
    update split.proof set keys = (select count(*) from split.unproven) where keys <= most;
    return true;
end
$end$;
