select
    id,
    "fullName" as full_name,
    null::timestamp(3) as deleted_at
from {{ source('shop', 'customers') }}
