select
    service as name,
    min(finished_at) as at,
    bool_and(is_proven) as is_proven
from split.verifications
group by service;
