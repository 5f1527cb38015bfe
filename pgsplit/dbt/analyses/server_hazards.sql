{#
    Is the monolith's server ready to be followed, and is anything on it in the way?

    Version and role of the server, encoding and collation, WAL settings, slots and senders for all services, prepared and
    long-open transactions. A new replication slot waits for those, in any database.
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with

owners as (
    select count(distinct nullif(owner, ''))::integer as services
    from ({{ pgsplit.expected_tables() }}) as rows (table_name, owner)
),

settings as (
    select
        current_setting('wal_level') as wal_level,
        current_setting('server_version') as version,
        current_setting('server_version_num')::integer as version_number,
        current_setting('max_replication_slots')::integer as slots,
        current_setting('max_wal_senders')::integer as senders,
        current_setting('max_slot_wal_keep_size') as keep_size,
        services
    from owners
),

used as (
    select
        -- the services' own are not in the way of the services
        (
            select count(*) from pg_catalog.pg_replication_slots
            where slot_name not like 'split\_%'
        ) as slots,
        (
            select count(*) from pg_catalog.pg_stat_replication
            where application_name not like 'split\_%'
        ) as senders
),

encodings as (
    select
        datname,
        pg_encoding_to_char(encoding) as encoding,
        datcollversion as version,
        pg_database_collation_actual_version(oid) as actual_version
    from pg_catalog.pg_database
    where datname = current_database()
),

found as (
    select
        'blocks' as severity,
        'encoding' as hazard,
        'database ' || datname as object,
        encoding as found,
        case encoding
            when 'SQL_ASCII'
                then 'It does not say what the bytes of a text mean, so no service can hold them.'
            else 'Texts are compared by their bytes, and only UTF8 holds every text.'
        end as means,
        format(
            'createdb --template=template0 --encoding=UTF8 %s_utf8 && pg_dump --encoding=%s %s'
            ' | psql %s_utf8; and split that one.',
            datname,
            case encoding when 'SQL_ASCII' then 'THEIR_REAL_ENCODING' else encoding end,
            datname,
            datname
        ) as mend
    from encodings
    where encoding <> 'UTF8'

    union all

    select
        'changes behaviour' as severity,
        'collation version' as hazard,
        'database ' || datname as object,
        format('made with %s, the system has %s', version, actual_version) as found,
        'Its indexes may be in another order than the system''s, which its services will have.'
            as means,
        format(
            'REINDEX DATABASE %I; ALTER DATABASE %I REFRESH COLLATION VERSION;', datname, datname
        ) as mend
    from encodings
    where version <> actual_version

    union all

    select
        'blocks' as severity,
        'wal_level' as hazard,
        'wal_level' as object,
        wal_level as found,
        'Changes cannot be decoded from the WAL, so nothing can follow the monolith.' as means,
        'ALTER SYSTEM SET wal_level = ''logical''; then restart the server.' as mend
    from settings
    where wal_level <> 'logical'

    union all

    select
        'blocks' as severity,
        'replication slots' as hazard,
        'max_replication_slots' as object,
        format('%s, of which others use %s', settings.slots, used.slots) as found,
        format('Each of the %s services needs one.', settings.services) as means,
        format(
            'ALTER SYSTEM SET max_replication_slots = %s; then restart the server.',
            used.slots + settings.services + 4
        ) as mend
    from settings
    cross join used
    where settings.slots - used.slots < settings.services

    union all

    select
        'blocks' as severity,
        'WAL senders' as hazard,
        'max_wal_senders' as object,
        format('%s, of which others use %s', settings.senders, used.senders) as found,
        format('Each of the %s services needs one.', settings.services) as means,
        format(
            'ALTER SYSTEM SET max_wal_senders = %s; then restart the server.',
            used.senders + settings.services + 4
        ) as mend
    from settings
    cross join used
    where settings.senders - used.senders < settings.services

    union all

    select
        'note' as severity,
        'WAL without a limit' as hazard,
        'max_slot_wal_keep_size' as object,
        keep_size as found,
        'A service that has landed and stops following lets the monolith''s disk fill up.' as means,
        'Watch runner.py status, or ALTER SYSTEM SET max_slot_wal_keep_size = ''100GB''; and'
        ' SELECT pg_reload_conf(); a service that falls further behind has to land again.' as mend
    from settings
    where keep_size = '-1'

    union all

    select
        'blocks' as severity,
        'version' as hazard,
        'server_version' as object,
        version as found,
        'Landing publishes columns by list, which PostgreSQL can since 15.' as means,
        'Upgrade the server to PostgreSQL 15 or later.' as mend
    from settings
    where version_number < 150000

    union all

    select
        'blocks' as severity,
        'standby' as hazard,
        'server' as object,
        'in recovery' as found,
        'It can be analyzed, but not split: the ledger is written to the primary.' as means,
        'Name the primary in {{ project_name | upper }}_URL.' as mend
    where pg_is_in_recovery()

    union all

    select
        'blocks' as severity,
        'prepared transaction' as hazard,
        quote_literal(gid) as object,
        format('of %s in %s, since %s', owner, database, date_trunc('second', prepared)) as found,
        'Landing waits for it to end, and so does vacuum.' as means,
        format('ROLLBACK PREPARED %L; or COMMIT PREPARED %L;', gid, gid) as mend
    from pg_catalog.pg_prepared_xacts

    union all

    select
        'blocks' as severity,
        'old transaction' as hazard,
        'process ' || pid as object,
        format(
            '%s of %s in %s, open since %s',
            state, usename, datname, date_trunc('second', xact_start)
        ) as found,
        'Landing waits for it to end if it has written, and so does vacuum.' as means,
        format('SELECT pg_terminate_backend(%s);', pid) as mend
    from pg_catalog.pg_stat_activity
    where
        backend_type = 'client backend'
        and pid <> pg_backend_pid()
        and xact_start < clock_timestamp() - interval '{{ var("old_after", "10 minutes") }}'
)

select * from found
order by severity, hazard, object
