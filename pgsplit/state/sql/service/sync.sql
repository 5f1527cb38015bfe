-- Which keys of one kind have changed. `is_whole`: compare the whole table, since one of the keys
-- stands for all rows or there are more than `most`.
create or replace function split.changed(
    source text, name text, most real, out is_whole boolean, out keys text[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $changed$
begin
    select coalesce(bool_or(changed.key is null), false) or count(*) > most, coalesce(array_agg(changed.key), '{}')
    into is_whole, keys
    from (
        select distinct key from split.changes where changed_table = source and key_name = name
        limit most::bigint + 1
    ) as changed;
    if is_whole then
        keys := null;
    end if;
end
$changed$;

-- In a restored dump every table has another oid, and so has the database. Then the tables are
-- found by their names, once. In any other case a table with another oid is not the one we made.
create or replace function split.recognize_tables()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $recognize$
begin
    update split.service set database_oid = here.oid
    from pg_database as here
    where here.datname = current_database() and here.oid is distinct from service.database_oid;
    if found then
        update split.service_tables
        set table_oid = coalesce(to_regclass(format('%I.%I', service.database, table_name)), 0)
        from split.service;
    end if;
end
$recognize$;

-- split.sync() brings every table of the service from one state of the monolith to the next. Once
-- the service is switched, it also brings the mirror of its own tables to where the service stands.
--
-- | returns       |                                                                    |
-- |---------------|--------------------------------------------------------------------|
-- | service_table | a table that captured changes concern; MIRROR.TABLE in the mirror  |
-- | upserted      | rows of it that were inserted or updated                           |
-- | deleted       | rows of it that were deleted                                       |
--
-- If rows had to be quarantined first, there is a line for each table: audit.TABLE, and its rows.
--
-- dbt, the runner or any scheduler calls it so:
--
--     begin isolation level repeatable read;
--     lock table split.turn in exclusive mode;
--     select * from split.sync();
--     commit;
--
-- One snapshot serves all tables. Replication applies whole transactions of the monolith, so no
-- reader ever sees half of one. The same transaction consumes the changes that it has seen, so it
-- may fail or be killed at any moment: nothing is lost and nothing is done twice. Callers lock
-- split.turn before their snapshot, so they run one after another. Without that lock the second one
-- gets a serialization failure and retries; so does one whose snapshot is older than a TRUNCATE of
-- the mirror, or than an ALTER TABLE that has rewritten a table of the service's. Foreign keys are
-- checked at the end, so the order of the tables does not matter.
--
-- After the switch the reverse models come first: they write the mirror, which replication takes
-- to the monolith. Only then come the others, so that they read the mirror as the service has it.
-- From then on rows that belong to the service are left alone. The triggers on both sides neither
-- capture nor refuse what a sync writes; both/passing.sql says how they know it.
--
-- Runs as the schema's owner, and only for its members: the triggers take nobody else's writes for
-- a sync's.
create or replace function split.sync()
returns table (service_table text, upserted bigint, deleted bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- Rows that a policy hides would be taken for deleted ones.
set row_security = off
as $sync$
declare
    here record;
    changed_tables text[];
    is_switched boolean;
    made record;
    noted bigint;
begin
    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
        raise exception using
            errcode = 'active_sql_transaction',
            message = 'split.sync() needs one snapshot for all tables, and this transaction is '
                || current_setting('transaction_isolation') || '.',
            hint = 'begin isolation level repeatable read; lock table split.turn in exclusive mode;'
                ' select * from split.sync(); commit;';
    end if;
    if not has_schema_privilege(session_user, 'split', 'create') then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('%I may not sync: it is no member of %I.', session_user, current_user),
            hint = format('GRANT %I TO %I;', current_user, session_user);
    end if;
    lock table split.turn in exclusive mode;
    perform split.hold_mirror();
    perform split.hold_own_tables();
    perform split.recognize_tables();
    set constraints all deferred;
    perform set_config('split.is_syncing', 'on', true);

    select * into here from split.service;
    is_switched := here.switched_at is not null;
    changed_tables := array(select distinct changed_table from split.changes);
    for made in
        select tables.* from split.mirror_tables as tables
        where
            is_switched and (tables.is_stale or tables.follows && changed_tables)
            and (here.completed_at is null or tables.shared_definition is distinct from '')
        order by tables.table_name
    loop
        execute format(
            'select _upserted, _deleted from split.%I($1)',
            case
                when here.completed_at is null or made.shared_definition is null then 'sync_monolith_'
                else 'share_monolith_'
            end || made.table_name
        )
        into upserted, deleted
        using made.is_stale;
        service_table := here.mirror || '.' || made.table_name;
        return next;
    end loop;

    for made in
        select tables.*, class.relname
        from split.service_tables as tables
        left join pg_class as class on class.oid = tables.table_oid
        where
            (tables.is_stale or tables.follows && changed_tables)
            and not (is_switched and tables.owned_rows = 'true')
        order by tables.table_name
    loop
        if made.relname is distinct from made.table_name then
            raise exception using
                errcode = 'undefined_table',
                message = format('The table %s that this project made has been dropped or renamed.', made.table_name),
                hint = format(
                    'Rename it back. If it was dropped, dbt build --target %s re-creates it.', here.database
                );
        end if;
        execute format('select _upserted, _deleted from split.%I($1)', 'sync_' || made.table_name)
        into upserted, deleted
        using made.is_stale;
        service_table := made.table_name;
        return next;
    end loop;

    for service_table, upserted, deleted in
        select 'audit.' || kept_in, rows, 0 from split.quarantined
        where transaction = pg_current_xact_id()
        order by kept_in
    loop
        return next;
    end loop;

    set constraints all immediate;
    perform set_config('split.is_syncing', '', true);
    update split.service
    set
        synced_at = clock_timestamp(),
        failed_at = null,
        failure = null,
        as_of = split.mirror_as_of(),
        first_write_at = coalesce(first_write_at, (select min(at) from split.changes));
    delete from split.deleted_rows
    where deleted_at < clock_timestamp() - here.keep_events;
    -- A rollback leaves changes that it finds in the monolith for later. Others are noted until the
    -- next proof, which looks at their rows.
    with applied as (
        delete from split.changes
        where
            not is_switched
            or changed_table not in (select here.mirror || '.' || table_name from split.mirror_tables)
        returning changed_table, key_name, key
    )

    insert into split.unproven (changed_table, key_name, key, epoch)
    select applied.*, proof.epoch from applied
    inner join split.proof on proof.keys <= proof.most
    where here.completed_at is null;
    get diagnostics noted = row_count;
    if noted > 0 then
        update split.proof set keys = keys + noted;
    end if;
    update split.service_tables set is_stale = false where is_stale;
    update split.mirror_tables set is_stale = false where is_stale;
end
$sync$;

revoke execute on function split.sync() from public;
