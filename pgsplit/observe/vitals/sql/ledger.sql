-- Operations, what tells how long they paused writers, and the newest comparison of totals.
select
    service,
    step,
    started_at,
    finished_at,
    outcome,
    intent,
    coalesce(detail, '{}') as detail
from split.ledger
where
    step in ('switch', 'rollback', 'complete', 'abort')
    or step in ('switch: close', 'switch: open', 'switch: undo close')
    or step in ('rollback: close', 'rollback: open', 'rollback: undo close')
    or id in (
        select max(newest.id) from split.ledger as newest
        where newest.step = 'totals'
        group by newest.service
    )
order by id;
