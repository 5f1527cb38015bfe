-- What a server and this login's place on it look like, as one JSON document.
select
    jsonb_build_object(
        'version', current_setting('server_version'),
        'number', current_setting('server_version_num')::integer,
        'pid', pg_backend_pid(),
        'max_connections', current_setting('max_connections')::integer,
        'reserved',
        current_setting('superuser_reserved_connections')::integer
        + coalesce(current_setting('reserved_connections', true), '0')::integer,
        'connected', (select coalesce(sum(numbackends), 0)::integer from pg_stat_database),
        'login_limit', role.rolconnlimit,
        'is_super', role.rolsuper,
        'expires', (
            select to_char(role.rolvaliduntil at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')
            where isfinite(role.rolvaliduntil) and role.rolvaliduntil < now() + interval '60 days'
        ),
        'user', format('"%s"', replace(role.rolname, '"', '""')),
        'slots', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'name', slot_name, 'active', active,
                'kept', coalesce(pg_wal_lsn_diff(
                    case when not pg_is_in_recovery() then pg_current_wal_lsn() end, restart_lsn
                ), 0)::bigint
            ) order by slot_name), '[]')
            from pg_replication_slots
        ),
        'slot_time_out', coalesce(current_setting('idle_replication_slot_timeout', true), '0'),
        'slot_limit', current_setting('max_slot_wal_keep_size')
    )
from pg_roles as role
where role.rolname = current_user
