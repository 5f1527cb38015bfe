select
    id,
    "fullName" as full_name,
    email
from {{ source('shop', 'customers') }}
