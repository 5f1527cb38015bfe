with tables as (
    select is_stale from split.service_tables
    union all
    select is_stale from split.mirror_tables
)

select coalesce(bool_or(is_stale), false) as is_stale
from tables;
