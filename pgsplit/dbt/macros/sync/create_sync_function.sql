{#
    split.sync(): brings every table of the service from one state of the monolith to the next; and
    the mirror of the tables that a switched service writes itself, to where the service stands.

    | returns       |                                                        |
    |---------------|--------------------------------------------------------|
    | service_table | a table that a captured change concerns; SCHEMA.TABLE, if it is the mirror's |
    | upserted      | rows of it that were inserted or updated               |
    | deleted       | rows of it that were deleted                           |

    To be called so, by dbt, by the runner, or by any scheduler:

        begin isolation level repeatable read;
        lock table split.turn in exclusive mode;
        select * from split.sync();
        commit;

    One snapshot for all tables: replication commits whole transactions of the monolith, so no
    reader ever sees half of one. The changes it has seen are consumed by the same transaction, so
    it may fail or be killed at any moment and nothing is lost or done twice. The lock, taken
    before the snapshot, makes callers take turns; without it a second caller gets a serialization
    failure, to be retried. So does one whose snapshot is older than a TRUNCATE of the mirror.
    Foreign keys wait for the end, so the order of the tables does not matter.

    After the switch the reverse models come first: they write the mirror, which replication carries
    back. Only then the others, so that what they read of the mirror is as the service has it. Rows
    that are the service's own are left alone from then on. The setting split.is_syncing tells the
    triggers on either side who writes: what is carried over is neither captured nor refused.

    Runs as the schema's owner, whoever calls it.

    split.hold_mirror(): keeps TRUNCATE out until the transaction ends. A table that was truncated
    after a snapshot was taken is empty in that snapshot too, whatever it held then; its file, which
    is not the one that the snapshot's catalogue names, gives it away. Never waits, since
    replication may hold one of the tables and wait for another.

    split.mirror_as_of(): what was committed before that moment, wherever it comes from, is in the
    mirror, by the clocks of those servers.

    split.changed(source, name, most): the keys of one kind that have changed; or, when one of them
    stands for all rows or there are more than `most`, that the whole table is to be compared.
#}
{% macro create_sync_function() %}
    create or replace function split.changed(
        source text, name text, most real, out is_whole boolean, out keys text[]
    )
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $changed$
    begin
        select coalesce(bool_or(changed.key is null), false) or count(*) > most
        into is_whole
        from (
            select distinct key from split.changes where changed_table = source and key_name = name
        ) as changed;
        if not is_whole then
            keys := array(
                select distinct key from split.changes where changed_table = source and key_name = name
            );
        end if;
    end
    $changed$;

    create or replace function split.mirror_as_of()
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
    as $as_of$
    begin
        return (
            select min(at) from split.heartbeats
            where service = '{{ target.name }}' or starts_with(service, '{{ target.name }} from ')
        );
    end
    $as_of$;

    create or replace function split.hold_mirror()
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $hold$
    declare
        mirrors text := (
            select string_agg(oid::regclass::text, ', ') from pg_class
            where relnamespace = '{{ pgsplit.monolith_schema() }}'::regnamespace and relkind = 'r'
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
            relnamespace = '{{ pgsplit.monolith_schema() }}'::regnamespace
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

    create or replace function split.sync()
    returns table (service_table text, upserted bigint, deleted bigint)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $sync$
    declare
        changed_tables text[];
        is_switched boolean;
        made record;
    begin
        if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
            raise exception using
                errcode = 'active_sql_transaction',
                message = 'split.sync() needs one snapshot for all tables, and this transaction is '
                    || current_setting('transaction_isolation') || '.',
                hint = 'begin isolation level repeatable read; lock table split.turn in exclusive mode;'
                    ' select * from split.sync(); commit;';
        end if;
        lock table split.turn in exclusive mode;
        perform split.hold_mirror();
        set constraints all deferred;
        perform set_config('split.is_syncing', 'on', true);

        is_switched := (select switched_at is not null from split.service);
        changed_tables := array(select distinct changed_table from split.changes);
        for made in
            select tables.* from split.mirror_tables as tables
            where is_switched and (tables.is_stale or tables.follows && changed_tables)
            order by tables.table_name
        loop
            execute format('select _upserted, _deleted from split.%I($1)', 'sync_monolith_' || made.table_name)
            into upserted, deleted
            using made.is_stale;
            service_table := '{{ pgsplit.monolith_schema() }}.' || made.table_name;
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
                    hint = 'Rename it back; if it was dropped, dbt build --target {{ target.name }} makes it anew.';
            end if;
            execute format('select _upserted, _deleted from split.%I($1)', 'sync_' || made.table_name)
            into upserted, deleted
            using made.is_stale;
            service_table := made.table_name;
            return next;
        end loop;

        set constraints all immediate;
        perform set_config('split.is_syncing', '', true);
        update split.service
        set
            synced_at = clock_timestamp(),
            as_of = split.mirror_as_of(),
            first_write_at = coalesce(first_write_at, (select min(at) from split.changes));
        delete from split.deleted_rows
        where deleted_at < clock_timestamp() - (select keep_events from split.service);
        -- What a rollback finds changed in the monolith is left for after it.
        delete from split.changes
        where not is_switched or changed_table not in (select '{{ pgsplit.monolith_schema() }}.' || table_name from split.mirror_tables);
        update split.service_tables set is_stale = false where is_stale;
        update split.mirror_tables set is_stale = false where is_stale;
    end
    $sync$;

    revoke execute on function split.sync() from public;
{% endmacro %}


{#
    sync_service_database(): calls split.sync() before dbt builds, so that its models find the
    service's tables and the mirror in one state.
#}
{% macro sync_service_database() %}
    {% if execute and flags.WHICH in ['build', 'run'] and not pgsplit.is_monolith() %}
        commit;
        begin isolation level repeatable read;
        lock table split.turn in exclusive mode;
        select * from split.sync();
        commit;
    {% endif %}
{% endmacro %}
