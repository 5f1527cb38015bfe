-- What a server and this login's place on it look like, as one JSON document.
with

login as (
    select
        rolname,
        rolconnlimit,
        rolsuper,
        rolvaliduntil,
        isfinite(rolvaliduntil) and rolvaliduntil < now() + interval '60 days' as expires_soon
    from pg_roles
    where rolname = current_user
),

written as (
    select case when not pg_is_in_recovery() then pg_current_wal_lsn() end as lsn
),

slots as (
    select
        slots.slot_name,
        slots.active,
        coalesce(pg_wal_lsn_diff(written.lsn, slots.restart_lsn), 0)::bigint as kept
    from pg_replication_slots as slots
    cross join written
)

select
    jsonb_build_object(
        'version', current_setting('server_version'),
        'number', current_setting('server_version_num')::integer,
        'pid', pg_backend_pid(),
        'max_connections', current_setting('max_connections')::integer,
        'reserved',
        current_setting('superuser_reserved_connections')::integer
        + coalesce(current_setting('reserved_connections', true), '0')::integer,
        'connected', (
            select coalesce(sum(databases.numbackends), 0)::integer
            from pg_stat_database as databases
        ),
        'slots', (
            select
                coalesce(
                    jsonb_agg(
                        jsonb_build_object(
                            'name', slots.slot_name, 'active', slots.active, 'kept', slots.kept
                        )
                        order by slots.slot_name
                    ),
                    '[]'
                )
            from slots
        ),
        'slot_time_out', coalesce(current_setting('idle_replication_slot_timeout', true), '0'),
        'slot_limit', current_setting('max_slot_wal_keep_size'),
        'login_limit', login.rolconnlimit,
        'is_super', login.rolsuper,
        'sees_statistics', pg_has_role('pg_read_all_stats', 'usage'),
        'user', format('"%s"', replace(login.rolname, '"', '""')),
        'expires', case
            when login.expires_soon
                then to_char(login.rolvaliduntil at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')
        end
    )
from login
