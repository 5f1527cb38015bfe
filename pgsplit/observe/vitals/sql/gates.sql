select
    service as name,
    not is_open and coalesce(opens_at > clock_timestamp(), true) as is_closed
from split.gates;
