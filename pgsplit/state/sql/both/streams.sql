-- The evidence that streams are unbroken, in the monolith and in each service's database alike. For
-- what it proves see pgsplit/replication/continuity.py.

create table if not exists split.streams (
    stream text primary key,
    identity jsonb not null,
    seen jsonb not null,
    seen_at timestamptz not null default clock_timestamp(),
    broken_at timestamptz,
    reason text
);
comment on table split.streams is
'Streams that begin or end here: what this end consisted of when the stream was last proven, what'
' both ends had counted when somebody last looked, and since when and why it proves nothing.';

-- What may alter or refuse rows, without an error, when replication writes some tables: triggers of
-- others, and settings by which values are read. Rules don't work for replication.
create or replace function split.altered_by(relations oid[])
returns table (what text, hint text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $altered$
    select
        format('trigger %I on %s', tgname, tgrelid::regclass),
        format('alter table %s enable trigger %I;', tgrelid::regclass, tgname)
    from pg_trigger
    inner join pg_proc on pg_proc.oid = tgfoid
    where
        tgrelid = any(relations)
        and tgenabled in ('A', 'R')
        and not tgisinternal
        and pronamespace <> 'split'::regnamespace
    union all
    select
        format('setting %s of database %I', given.setting, current_database()),
        format('alter database %I reset %s;', current_database(), split_part(given.setting, '=', 1))
    from pg_db_role_setting
    cross join unnest(setconfig) as given (setting)
    where
        setrole = 0
        and setdatabase = (select databases.oid from pg_database as databases where datname = current_database())
        and (
            given.setting ~* '^array_nulls=(o?f|f|n|0)'
            -- The mark of a decimal point depends on it.
            or given.setting ~ '^lc_monetary=' and exists (
                select from pg_attribute where attrelid = any(relations) and atttypid = 'money'::regtype
            )
        )
    order by 1
$altered$;

-- The tables that a publication lists by name.
create or replace function split.published(name text)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $published$
begin
    return (
        select
            jsonb_object_agg(
                namespaces.nspname || '.' || class.relname,
                jsonb_build_object(
                    'oid', class.oid::text,
                    'member', concat_ws(' ', members.oid, members.xmin),
                    -- One that was made as a partition had no rows then, and what it gets is
                    -- published. A table that only inherits is not published by itself.
                    'parts',
                    coalesce(
                        (
                            select jsonb_object_agg(
                                inhrelid::text, inherits.xmin = types.xmin and part.relispartition
                            )
                            from pg_inherits as inherits
                            inner join pg_class as part on part.oid = inhrelid
                            inner join pg_type as types on types.typrelid = inhrelid
                            where inhparent = class.oid
                        ),
                        '{}'
                    )
                )
            )
        from pg_publication as publications
        inner join pg_publication_rel as members on members.prpubid = publications.oid
        inner join pg_class as class on class.oid = members.prrelid
        inner join pg_namespace as namespaces on namespaces.oid = class.relnamespace
        where publications.pubname = name
    );
end
$published$;

-- What one end of a stream consists of. Whoever replaces a part, by hand or by a restore, can't
-- give it the same oid or row version.
create or replace function split.stream_identity(name text)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $identity$
declare
    here jsonb := jsonb_build_object(
        'server', (select system_identifier::text from pg_control_system()),
        'timeline', left(pg_walfile_name(pg_current_wal_lsn()), 8),
        'database', (select databases.oid::text from pg_database as databases where datname = current_database())
    );
    published oid;
    subscribed oid;
begin
    select publications.oid into published from pg_publication as publications where pubname = name;
    select subscriptions.oid into subscribed from pg_subscription as subscriptions
    where
        subname = name
        and subdbid = (select databases.oid from pg_database as databases where datname = current_database());
    if published is not null then
        here := here || jsonb_build_object(
            'publication',
            (select concat_ws(' ', publications.oid, publications.xmin) from pg_publication as publications where publications.oid = published),
            'slot',
            (
                select concat_ws(' ', plugin, slot_type, database, two_phase)
                from pg_replication_slots where slot_name = name and not temporary
            ),
            'published',
            split.published(name)
        );
    end if;
    if subscribed is not null then
        here := here || jsonb_build_object(
            'subscription',
            (
                select concat_ws(' ', subscriptions.oid, subslotname, subpublications::text)
                from pg_subscription as subscriptions where subscriptions.oid = subscribed
            ),
            'altered_by',
            (
                select coalesce(jsonb_agg(altered.what), '[]')
                from split.altered_by(
                    array(select srrelid from pg_subscription_rel where srsubid = subscribed)
                ) as altered
            ),
            'subscribed',
            (
                select jsonb_object_agg(namespaces.nspname || '.' || class.relname, concat_ws(' ', class.oid, srsubstate))
                from pg_subscription_rel as members
                inner join pg_class as class on class.oid = members.srrelid
                inner join pg_namespace as namespaces on namespaces.oid = class.relnamespace
                where members.srsubid = subscribed
            )
        );
    end if;
    -- A table that was rewritten has another file, and a column that was altered another row version.
    return here || jsonb_build_object(
        'columns',
        coalesce(
            (
                select
                    jsonb_object_agg(
                        namespaces.nspname || '.' || class.relname,
                        jsonb_build_object(
                            'file', class.relfilenode::text,
                            'rows',
                            (
                                select jsonb_object_agg(attname, concat_ws(' ', attnum, parts.xmin))
                                from pg_attribute as parts
                                where attrelid = class.oid and attnum > 0 and not attisdropped
                            )
                        )
                    )
                from pg_class as class
                inner join pg_namespace as namespaces on namespaces.oid = class.relnamespace
                where
                    class.oid in (select prrelid from pg_publication_rel where prpubid = published)
                    or class.oid in (select srrelid from pg_subscription_rel where srsubid = subscribed)
            ),
            '{}'
        ),
        -- What captures changes of the mirror, where it ends, and of the service, where it begins.
        'triggers',
        coalesce(
            (
                select
                    jsonb_object_agg(
                        namespaces.nspname || '.' || class.relname || ': ' || tgname,
                        concat_ws(' ', triggers.oid, triggers.xmin, tgenabled)
                    )
                from pg_trigger as triggers
                inner join pg_class as class on class.oid = tgrelid
                inner join pg_namespace as namespaces on namespaces.oid = class.relnamespace
                where
                    not tgisinternal
                    and (
                        (
                            tgname like 'split\_%'
                            and exists (
                                select from pg_subscription_rel
                                where srsubid = subscribed and srrelid = tgrelid
                            )
                        )
                        or (
                            tgname like 'split\_capture%'
                            and published is not null
                            and not exists (select from pg_subscription_rel where srrelid = tgrelid)
                        )
                    )
            ),
            '{}'
        )
    );
end
$identity$;

-- What one end of a stream has counted. Positions are bytes of WAL, times are seconds.
create or replace function split.stream_counters(name text, heartbeat text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $counters$
declare
    version text;
begin
    -- Column privileges, which everybody has on this catalogue, don't include it.
    if has_table_privilege('pg_subscription', 'select') then
        execute
            'select xmin::text from pg_subscription where subname = $1 and subdbid ='
            ' (select oid from pg_database where datname = current_database())'
        into version
        using name;
    end if;
    return jsonb_build_object(
        'at', extract(epoch from clock_timestamp()),
        'flushed', pg_current_wal_flush_lsn() - '0/0',
        'written', pg_current_wal_insert_lsn() - '0/0',
        'transactions', pg_snapshot_xmax(pg_current_snapshot())::text::numeric,
        -- A crash discards the statistics; then these have another time of birth.
        'statistics', (select extract(epoch from stats_reset) from pg_stat_wal),
        'heartbeat', (select extract(epoch from at) from split.heartbeats where service = heartbeat),
        'slot',
        (
            select
                jsonb_build_object(
                    'confirmed', confirmed_flush_lsn - '0/0',
                    'restart', restart_lsn - '0/0',
                    'lost', wal_status = 'lost',
                    'sent', total_txns,
                    'bytes', total_bytes,
                    'reset', extract(epoch from stats_reset),
                    'reader',
                    (
                        select pid || ' ' || backend_start from pg_stat_activity
                        where pid = slots.active_pid
                    )
                )
            from pg_replication_slots as slots
            left join pg_stat_replication_slots as statistics using (slot_name)
            where slot_name = name and database = current_database()
        ),
        'subscription',
        (
            select
                jsonb_build_object(
                    'row', version,
                    'enabled', subenabled,
                    'errors', coalesce(apply_error_count, 0)
                )
            from pg_subscription as subscriptions
            left join pg_stat_subscription_stats as statistics on statistics.subid = subscriptions.oid
            where
                subscriptions.subname = name
                and subdbid = (select databases.oid from pg_database as databases where datname = current_database())
        )
    );
end
$counters$;

-- Keeps the evidence in step with our own change of a publication, in the same transaction. Only
-- the tables that were added or dropped are looked at, named with their schema.
create or replace function split.tables_changed(name text, tables text[])
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update split.streams
    set
        identity = jsonb_set(
            identity, '{published}',
            ((identity -> 'published') - tables) || coalesce(
                (
                    select jsonb_object_agg(key, value)
                    from jsonb_each(split.published(name))
                    where key = any(tables)
                ),
                '{}'
            )
        )
    where stream = name and identity ? 'published';
end;

-- Keeps the evidence of a stream, or of all that begin or end here, in step with our own change of
-- triggers, in the same transaction.
create or replace function split.triggers_changed(name text default null)
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update split.streams
    set identity = jsonb_set(identity, '{triggers}', split.stream_identity(stream) -> 'triggers')
    where (name is null or stream = name) and broken_at is null;
end;
