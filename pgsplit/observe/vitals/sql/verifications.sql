-- A switch and a rollback change which tables are compared: what the last whole verification left
-- out says nothing any more.
with

whole as (
    select distinct on (service)
        service,
        intent -> 'tables' as tables
    from split.ledger
    where step = 'verify' and (intent ->> 'whole')::boolean
    order by service asc, id desc
)

select
    verifications.service as name,
    min(verifications.finished_at) as at,
    bool_and(verifications.is_proven) as is_proven
from split.verifications
left join whole on verifications.service = whole.service
where whole.tables is null or jsonb_exists(whole.tables, verifications.table_name)
group by verifications.service;
