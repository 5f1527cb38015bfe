{#
    split.sync(): brings every table of the service from one state of the monolith to the next.

    | returns       |                                                        |
    |---------------|--------------------------------------------------------|
    | service_table | a table that a captured change concerns                |
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

    Runs as the schema's owner, whoever calls it.

    split.hold_mirror(): keeps TRUNCATE out until the transaction ends. A table that was truncated
    after a snapshot was taken is empty in that snapshot too, whatever it held then; its file, which
    is not the one that the snapshot's catalogue names, gives it away. Never waits, since
    replication may hold one of the tables and wait for another.

    split.changed(mirror, name, most): the keys of one kind that have changed; or, when one of them
    stands for all rows or there are more than `most`, that the whole table is to be compared.
#}
{% macro create_sync_function() %}
    create or replace function split.changed(
        mirror text, name text, most real, out is_whole boolean, out keys text[]
    )
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $changed$
    begin
        select coalesce(bool_or(changed.key is null), false) or count(*) > most
        into is_whole
        from (
            select distinct key from split.changes where mirror_table = mirror and key_name = name
        ) as changed;
        if not is_whole then
            keys := array(
                select distinct key from split.changes where mirror_table = mirror and key_name = name
            );
        end if;
    end
    $changed$;

    create or replace function split.hold_mirror()
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $hold$
    declare
        mirrors text := (
            select string_agg(oid::regclass::text, ', ') from pg_class
            where relnamespace = 'blytz_hire'::regnamespace and relkind = 'r'
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
            relnamespace = 'blytz_hire'::regnamespace
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
        changed_mirrors text[];
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

        changed_mirrors := array(select distinct mirror_table from split.changes);
        for made in
            select tables.*, class.relname
            from split.service_tables as tables
            left join pg_class as class on class.oid = tables.table_oid
            where tables.is_stale or tables.follows && changed_mirrors
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

        delete from split.changes;
        update split.service_tables set is_stale = false where is_stale;
        set constraints all immediate;
        update split.service
        set synced_at = clock_timestamp(), as_of = (select max(at) from split.heartbeats);
    end
    $sync$;

    revoke execute on function split.sync() from public;
{% endmacro %}


{#
    sync_service_database(): calls split.sync() before dbt builds, so that its models find the
    service's tables and the mirror in one state.
#}
{% macro sync_service_database() %}
    {% if execute and flags.WHICH in ['build', 'run'] and target.name != 'blytz_hire' %}
        commit;
        begin isolation level repeatable read;
        lock table split.turn in exclusive mode;
        select * from split.sync();
        commit;
    {% endif %}
{% endmacro %}
