-- One customer for ten rows that were asked for; all others are orders.
insert into shop.customers (id, "fullName", email)
select
    'customer-' || i,
    'Customer ' || i,
    'customer-' || i || '@example.com'
from generate_series(1, current_setting('demo.rows')::integer / 10) as i;

insert into shop.orders (id, "customerId", "totalCents", "placedAt")
select
    'order-' || i,
    'customer-' || 1 + i % (current_setting('demo.rows')::integer / 10),
    i * 7 % 10000,
    timestamp '2025-01-01' + i * interval '1 minute'
from generate_series(1, current_setting('demo.rows')::integer * 9 / 10) as i;
