select
    synced_at,
    as_of,
    failed_at,
    failure,
    (
        select count(*) > 0 from pg_locks as lock
        where lock.relation = 'split.turn'::regclass and lock.granted
    ) as is_syncing
from split.service;
