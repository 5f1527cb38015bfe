select
    id,
    "customerId" as customer_id,
    "totalCents" as total_cents,
    "placedAt" as placed_at
from {{ source('shop', 'orders') }}
