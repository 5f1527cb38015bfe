select
    coalesce(lag.seconds, 0)::float as lag_seconds,
    coalesce(lag.follower, '') as lagging,
    (
        select count(*) from pg_catalog.pg_stat_activity
        where
            backend_type = 'client backend' and state = 'active'
            and application_name not like 'pgsplit%' and application_name <> 'dbt'
    ) as sessions,
    (select {checkpoints}) as checkpoints
from (values (true)) as always (is_there)
left join (
    select
        application_name as follower,
        extract(epoch from replay_lag) as seconds
    from pg_catalog.pg_stat_replication
    where replay_lag is not null
    order by replay_lag desc
    limit 1
) as lag on true
