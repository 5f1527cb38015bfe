select
    runner.operator,
    runner.host,
    runner.command,
    runner.since
from pg_locks as lock
inner join pg_database as here on lock.database = here.oid
left join split.runner as runner on lock.pid = runner.session
where
    lock.relation = 'split.runner'::regclass
    and lock.granted
    and here.datname = current_database()
    and lock.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
order by runner.since
limit 1;
