select
    stream as name,
    broken_at,
    reason
from split.streams
where broken_at is not null;
