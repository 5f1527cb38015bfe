select
    min(checked_at) as at,
    coalesce(sum(orphans) filter (where severity = 'error'), 0)::bigint as broken,
    coalesce(sum(orphans) filter (where severity <> 'error'), 0)::bigint as tolerated
from split.parity_tests
where checked_at is not null;
