-- The migration as the strategy words it: tables of its own beside the monolith's, and
-- `insert … select`. No second server, no other keys, no test, and no changes from then on.

create schema communication_db;
create table communication_db.notifications (
    id text primary key,
    user_id text not null,
    type text not null,
    title text not null,
    message text,
    data jsonb,
    created_at timestamp default now(),
    read_at timestamp
);
insert into communication_db.notifications
select
    id,
    "userId" as user_id,
    type,
    title,
    message,
    data,
    "createdAt" as created_at,
    case when read then "createdAt" end as read_at
from blytz_hire.notifications;

create schema payments_db;
create table payments_db.payments (
    id text primary key,
    sender_id text not null,
    receiver_id text not null,
    amount numeric not null,
    currency text default 'USD',
    status text not null,
    stripe_payment_intent_id text,
    created_at timestamp default now()
);
insert into payments_db.payments
select
    id,
    "userId" as sender_id,
    "receiverId" as receiver_id,
    amount,
    'USD' as currency,
    status,
    "stripePaymentIntentId" as stripe_payment_intent_id,
    "createdAt" as created_at
from blytz_hire.payments;
