select
    slots.slot_name::text as name,
    slots.active as is_active,
    slots.wal_status,
    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), slots.restart_lsn), 0)::bigint as kept_bytes,
    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), slots.confirmed_flush_lsn), 0)::bigint
        as behind_bytes,
    nullif(pg_size_bytes(current_setting('max_slot_wal_keep_size')), -1) as limit_bytes,
    extract(epoch from sender.replay_lag)::float as replay_seconds,
    publication.oid is not null as has_publication
from pg_replication_slots as slots
left join pg_stat_replication as sender on slots.active_pid = sender.pid
left join pg_publication as publication on slots.slot_name = publication.pubname
where slots.database = current_database() and not slots.temporary;
