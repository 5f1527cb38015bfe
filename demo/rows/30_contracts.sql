-- Contracts, and the work and the bills under them.

insert into blytz_hire.contracts (
    id, "jobId", "jobPostingId", "vaProfileId", "companyId", "proposalId", "contractType",
    amount, "hourlyRate", currency, "startDate", "endDate", status, terms, deliverables,
    "milestonesData", "paymentSchedule", "totalPaid", "totalHours", "createdAt", "updatedAt"
)
select
    pg_temp.id('contract', i),
    pg_temp.id('job', i),
    pg_temp.id('posting', pg_temp.deal_posting(i, plan.job_postings)),
    pg_temp.id('va', pg_temp.deal_va(i, plan.va_profiles)),
    pg_temp.company_id(pg_temp.deal_company(i, plan.job_postings, plan.companies)),
    case when i % 6 > 0 then pg_temp.id('proposal', i) end,
    pg_temp.one_of(i, 401, 'fixed', 'hourly', 'retainer'),
    pg_temp.odd_double(i, pg_temp.amount(i, 402, 900000)),
    case when i % 12 < 11 then pg_temp.odd_double(i, pg_temp.amount(i, 403, 6000)) end,
    case when i % 20 = 9 then pg_temp.one_of(i, 404, 'EUR', 'GBP', 'PHP') else 'USD' end,
    pg_temp.moment(i, 405),
    case when i % 4 > 0 then pg_temp.moment(i, 405) + pg_temp.hours(2160) end,
    pg_temp.one_of(i, 406, 'active', 'active', 'completed', 'paused', 'terminated'),
    case when i % 12 < 11 then pg_temp.odd_json(i, '{"notice": "14 days", "nda": true}') end,
    case
        when i % 1000 = 14 then array[to_jsonb(pg_temp.long_text(i))]
        when i % 9 < 7 then pg_temp.odd_jsons(
            i,
            array[
                jsonb_build_object('title', pg_temp.prose(i, 407), 'done', i % 2 = 0),
                '{"title": "Hand-over notes", "done": false}'
            ]
        )
    end,
    case
        when i % 10 < 9 then pg_temp.odd_jsons(
            i - 1,
            array[jsonb_build_object('title', 'Part 1', 'amount', pg_temp.amount(i, 410, 90000))]
        )
    end,
    case when i % 7 > 0 then pg_temp.one_of(i, 411, 'upon_completion', 'weekly', 'monthly') end,
    pg_temp.odd_double(i, pg_temp.amount(i, 412, 900000)),
    case when i % 3 > 0 then pg_temp.odd_double(i, pg_temp.amount(i, 413, 50000)) end,
    pg_temp.moment(i, 405) - pg_temp.hours(20),
    pg_temp.moment(i, 405) + pg_temp.hours(pg_temp.pick(i, 414, 900))
from plan, generate_series(1, plan.contracts) as i;

-- Milestone i belongs to contract i, then round again: each contract has its first by number.
insert into blytz_hire.milestones (
    id, "contractId", "jobId", title, description, amount, status, "dueDate", "completedAt",
    "approvedAt", "createdAt", "updatedAt"
)
select
    pg_temp.id('milestone', i),
    pg_temp.id('contract', 1 + (i - 1) % plan.contracts),
    pg_temp.id('job', 1 + (i - 1) % plan.contracts),
    pg_temp.odd_text(i, 'Part ' || (1 + (i - 1) / plan.contracts)::text),
    case when i % 3 > 0 then pg_temp.prose(i, 421) end,
    pg_temp.odd_double(i, pg_temp.amount(i, 424, 300000)),
    pg_temp.one_of(i, 425, 'pending', 'in_progress', 'completed', 'approved'),
    case when i % 5 > 0 then pg_temp.moment(i, 426) + pg_temp.hours(336) end,
    case when i % 2 > 0 then pg_temp.moment(i, 426) + pg_temp.hours(300) end,
    case when i % 4 > 2 then pg_temp.moment(i, 426) + pg_temp.hours(320) end,
    pg_temp.moment(i, 426),
    pg_temp.moment(i, 426) + pg_temp.hours(320)
from plan, generate_series(1, plan.milestones) as i;

insert into blytz_hire.timesheets (
    id, "contractId", "vaProfileId", "jobId", date, "startTime", "endTime", "totalHours",
    description, status, "approvedAt", "approvedBy", "createdAt", "updatedAt"
)
select
    pg_temp.id('timesheet', i),
    pg_temp.id('contract', contract),
    pg_temp.id('va', pg_temp.deal_va(contract, va_profiles)),
    pg_temp.id('job', contract),
    date_trunc('day', started),
    started,
    -- some end after midnight
    started + interval '15 minutes' * quarters,
    pg_temp.odd_double(i, quarters / 4::double precision),
    case when i % 3 > 0 then pg_temp.prose(i, 431) end,
    case when approved then 'approved' else pg_temp.one_of(i, 434, 'pending', 'rejected') end,
    case when approved then started + pg_temp.hours(40) end,
    case
        -- approved by somebody who has left
        when i % 400 = 7 then pg_temp.gone_id('user', i)
        when approved then pg_temp.id('user', pg_temp.company_user(company, va_profiles))
    end,
    started + pg_temp.hours(12),
    started + pg_temp.hours(40)
from (
    select
        i,
        plan.va_profiles,
        contract,
        pg_temp.deal_company(contract, plan.job_postings, plan.companies) as company,
        pg_temp.moment(i, 435) as started,
        pg_temp.pick(i, 436, 40) as quarters,
        i % 5 > 1 as approved
    from
        plan,
        generate_series(1, plan.timesheets) as i,
        pg_temp.pick(i, 437, plan.contracts) as contract
    -- keeps PostgreSQL from working each of these out anew wherever it is used
    offset 0
) as work;

-- Invoices have no foreign keys at all, and it shows.
insert into blytz_hire.invoices (
    id, "contractId", "userId", "receiverId", "invoiceNumber", items, subtotal, "taxRate",
    "taxAmount", discount, "totalAmount", "dueDate", currency, status, notes, "createdAt",
    "updatedAt"
)
select
    pg_temp.id('invoice', i),
    case
        when i % 400 = 11 then pg_temp.gone_id('contract', i)
        else pg_temp.id('contract', contract)
    end,
    case
        when i % 400 = 12 then pg_temp.gone_id('user', i)
        else pg_temp.id('user', pg_temp.deal_va(contract, va_profiles))
    end,
    case
        when i % 400 = 13 then pg_temp.gone_id('user', i)
        else pg_temp.id('user', pg_temp.company_user(company, va_profiles))
    end,
    -- four random digits: every eighth invoice has the number of the one before it
    'INV-' || to_char(numbered, 'YYYYMM-')
        || lpad((pg_temp.hash(i - (i % 8 / 7), 451) % 10000)::text, 4, '0'),
    case
        when i % 9 < 8 then pg_temp.odd_jsons(
            i,
            array[
                jsonb_build_object(
                    'description', pg_temp.prose(i, 441), 'quantity', 2, 'rate', subtotal / 2
                )
            ]
        )
    end,
    pg_temp.odd_double(i, subtotal),
    pg_temp.odd_double(i - 2, tax_rate),
    pg_temp.odd_double(i - 1, subtotal * tax_rate),
    case when i % 6 = 5 then 0.1 * subtotal else 0 end,
    pg_temp.odd_double(i, subtotal + subtotal * tax_rate),
    numbered + pg_temp.hours(720),
    case when i % 30 = 9 then 'EUR' else 'USD' end,
    pg_temp.one_of(i, 444, 'pending', 'paid', 'paid', 'overdue', 'cancelled'),
    case when i % 5 < 4 then pg_temp.odd_text(i, pg_temp.prose(i, 445)) end,
    numbered,
    numbered + pg_temp.hours(pg_temp.pick(i, 448, 700))
from (
    select
        i,
        plan.va_profiles,
        contract,
        pg_temp.deal_company(contract, plan.job_postings, plan.companies) as company,
        pg_temp.amount(i, 449, 500000) as subtotal,
        (array[0, 0.07, 0.12, 0.2])[pg_temp.pick(i, 450, 4)]::double precision as tax_rate,
        pg_temp.moment(i - (i % 8 / 7), 452) as numbered
    from
        plan,
        generate_series(1, plan.invoices) as i,
        pg_temp.pick(i, 453, plan.contracts) as contract
    offset 0
) as bill;
