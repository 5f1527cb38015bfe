select
    subscription.subname::text as name,
    subscription.subenabled as is_enabled,
    subscription.subslotname is not null as has_slot,
    worker.pid is not null as is_running,
    coalesce(stats.apply_error_count, 0) as errors,
    cardinality(coalesce(pg_blocking_pids(worker.pid), '{}')) > 0 as is_blocked
from pg_subscription as subscription
inner join pg_database as here on subscription.subdbid = here.oid
left join pg_stat_subscription as worker
    on
        subscription.oid = worker.subid
        and worker.relid is null
        and to_jsonb(worker) ->> 'leader_pid' is null
left join pg_stat_subscription_stats as stats on subscription.oid = stats.subid
where here.datname = current_database();
