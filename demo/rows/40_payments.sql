-- Payments, whose refunds and disputes stand in their own columns and metadata, and reviews.

create temp table odd_payment as
select * from (
    values
        -- refunded in full, in part, and by halves
        (1, 'refunded', 5000, 5000, true, '{"refundReason": "Work was not delivered"}'),
        (2, 'refunded', 5000, 1999, true, '{"refundReason": "部分退款 – \"half\" 🚀"}'),
        (3, 'refunded', 5000, 5000, false, '{"refundReason": "duplicate"}'),
        (4, 'refunded', 5000, null, true, '{"refundReason": null}'),
        (5, 'completed', 5000, 0, false, null),
        (6, 'completed', 5000, 0, true, '{"refundReason": ""}'),
        (7, 'refunded', 5000, null, false, '{"refundReason": "only a reason"}'),
        (8, 'refunded', 5000, 7500, true, null),
        (9, 'completed', 5000, 2500, true, '[]'),
        -- disputed, with and without a refund
        (10, 'refunded', 8000, 8000, true, '{"disputeReason": "fraud", "refundReason": "fraud"}'),
        (11, 'disputed', 8000, null, false, '{"disputeReason": "Poor work", "evidence": ["a", 1]}'),
        (12, 'completed', 8000, null, false, '{"disputeReason": null}'),
        (13, 'completed', 8000, null, false, '{"disputeReason": ""}'),
        (14, 'refunded', 8000, 4000, true, '{"disputeReason": null, "refundReason": "goodwill"}'),
        (15, 'disputed', 8000, null, false, '{"disputeReason": {"code": 13, "text": "late"}}'),
        (16, 'completed', 8000, null, false, '[{"disputeReason": "inside an array"}]'),
        (17, 'completed', 8000, null, false, '{"nested": {"disputeReason": "one level down"}}'),
        -- metadata of every shape, amounts to the edge of an integer
        (18, 'completed', 0, null, false, '{}'),
        (19, 'completed', 1, null, false, 'null'),
        (20, 'completed', 2147483647, null, false, '"scalar"'),
        (21, 'failed', 99, null, false, '42'),
        (22, 'pending', 100, null, false, null),
        (23, 'completed', 101, null, false, '{"key with \"quotes\"": "tab\t", "n": 1.10, "名": []}'),
        (24, 'refunded', 2147483647, 2147483647, true, 'false')
) as odd (no, status, amount, refund_amount, refunded, metadata);

insert into blytz_hire.payments (
    id, "jobId", "contractId", "milestoneId", "matchId", "userId", "receiverId",
    "stripePaymentIntentId", amount, status, "stripeFee", "platformFee", method, type,
    metadata, "refundAmount", "refundedAt", "processedAt", "createdAt", "updatedAt"
)
select
    pg_temp.id('payment', i),
    case when i % 9 < 8 then pg_temp.id('job', contract) end,
    case when i % 9 < 7 then pg_temp.id('contract', contract) end,
    case
        -- no foreign key, so some milestones are gone
        when i % 400 = 32 then pg_temp.gone_id('milestone', i)
        when i % 2 = 0 then pg_temp.id('milestone', contract)
    end,
    case when i % 3 = 0 then pg_temp.id('match', posting) end,
    pg_temp.id('user', payer),
    case
        when i % 400 = 31 then pg_temp.gone_id('user', i)
        when i % 400 = 33 then pg_temp.id('user', payer)
        else pg_temp.id('user', pg_temp.deal_va(contract, va_profiles))
    end,
    case i % 1000
        when 35 then 'manual transfer № ' || i::text
        else 'pi_' || substr(md5('intent' || i::text), 1, 24)
    end,
    paid.amount,
    paid.status,
    case when i % 10 < 9 then least(paid.amount, 30 + paid.amount / 35) end,
    case when i % 7 < 6 then paid.amount / 10 end,
    pg_temp.one_of(i, 501, 'card', 'card', 'card', 'bank_transfer', 'paypal'),
    case when i % 12 = 11 then pg_temp.one_of(i, 502, 'bonus', 'deposit') else 'payment' end,
    case
        when odd.no is not null then odd.metadata::jsonb
        when i % 1000 = 36 then jsonb_build_object('note', pg_temp.long_text(i))
        when is_refund and i % 5 = 0 then jsonb_build_object(
            'disputeReason', pg_temp.one_of(i, 503, 'Hours not worked', 'Charged twice'),
            'refundReason', 'Dispute settled'
        )
        when is_refund then jsonb_build_object(
            'refundReason', pg_temp.one_of(i, 504, 'Requested by customer', 'Duplicate', '退款')
        )
        when i % 90 = 41 then '{"disputeReason": "Quality of the work"}'
        when i % 3 > 0 then jsonb_build_object('source', 'web', 'invoice', i)
    end,
    case when odd.no is not null then odd.refund_amount when is_refund then paid.amount end,
    case when is_refund then created + pg_temp.hours(pg_temp.pick(i, 505, 400)) end,
    case when paid.status <> 'pending' then created + interval '1.234 seconds' end,
    created,
    -- every fourth was changed by SQL that left this stale
    case when i % 4 > 0 then created + pg_temp.hours(400) else created end
from
    (
        select
            i,
            plan.va_profiles,
            contract,
            pg_temp.deal_posting(contract, plan.job_postings) as posting,
            pg_temp.company_user(
                pg_temp.deal_company(contract, plan.job_postings, plan.companies),
                plan.va_profiles
            ) as payer,
            pg_temp.moment(i, 507) as created
        from
            plan,
            generate_series(1, plan.payments) as i,
            pg_temp.pick(i, 508, plan.contracts) as contract
        offset 0
    ) as payment
    left join odd_payment as odd
        on odd.no = pg_temp.odd(i, 24)
        -- the greatest amounts only once, or their sum would drown every other
        and (i <= 24 or odd.amount < 2147483647),
    lateral (select coalesce(odd.refunded, i % 25 = 3) as is_refund) as refund,
    lateral (
        select
            coalesce(odd.amount, pg_temp.pick(i, 509, 200000)::integer) as amount,
            coalesce(
                odd.status,
                case when is_refund then 'refunded' when i % 90 = 41 then 'disputed' end,
                pg_temp.one_of(
                    i, 510, 'completed', 'completed', 'completed', 'completed', 'pending', 'failed'
                )
            ) as status
    ) as paid;

insert into blytz_hire.reviews (
    id, "reviewerId", "targetType", "targetId", rating, comment, categories, helpful,
    verified, "createdAt", "updatedAt"
)
select
    pg_temp.id('review', i),
    case
        -- the reviewer has no foreign key
        when i % 400 = 13 then pg_temp.gone_id('user', i)
        when i % 2 = 0 then pg_temp.id('user', pg_temp.company_user(company, plan.va_profiles))
        else pg_temp.id('user', va)
    end,
    case when i % 2 = 0 then 'va' else 'company' end,
    case when i % 2 = 0 then pg_temp.id('va', va) else pg_temp.company_id(company) end,
    pg_temp.pick(i, 521, 5)::integer,
    case
        when i % 1000 = 15 then pg_temp.long_text(i)
        when i % 7 < 6 then pg_temp.odd_text(i, pg_temp.prose(i, 522))
    end,
    case
        when i % 12 < 11 then pg_temp.odd_json(
            i, jsonb_build_object('quality', pg_temp.pick(i, 525, 5), 'speed', 4.5)
        )
    end,
    pg_temp.pick(i, 526, 20)::integer - 1,
    i % 3 > 0,
    pg_temp.moment(i, 527),
    pg_temp.moment(i, 527) + pg_temp.hours(pg_temp.pick(i, 528, 100))
from
    plan,
    generate_series(1, plan.reviews) as i,
    pg_temp.pick(i, 529, plan.va_profiles) as va,
    pg_temp.pick(i, 530, plan.companies) as company;
