-- What every rows file shares: how many rows, their ids, and where the odd values stand.
-- All of it is arithmetic on the row number: the same demo.rows gives the same rows anywhere,
-- and a reference needs no lookup, since the id of row i is a function of i.
-- The session sets demo.rows, the rows wanted over all tables, before it runs this file.

-- Compiling expressions this wide takes longer than computing them.
set local jit = off;

-- Every table has enough rows for its odd values, then its share of the rest.
-- Keep the order that the references rely on: contracts <= jobs <= proposals,
-- contracts <= milestones, job_postings <= matches, companies <= va_profiles.
create temp table plan as
with base as (
    select greatest(current_setting('demo.rows')::bigint - 414, 0) as rest
), sizes as (
    select
        40 + rest * 30 / 1000 as users,
        18 + rest * 18 / 1000 as va_profiles,
        14 + rest * 10 / 1000 as companies,
        10 + rest * 12 / 1000 as badges,
        10 + rest * 15 / 1000 as skills_assessments,
        26 + rest * 25 / 1000 as portfolio_items,
        24 + rest * 25 / 1000 as job_postings,
        26 + rest * 80 / 1000 as matches,
        16 + rest * 110 / 1000 as match_votes,
        24 + rest * 110 / 1000 as proposals,
        16 + rest * 25 / 1000 as jobs,
        16 + rest * 22 / 1000 as contracts,
        16 + rest * 38 / 1000 as milestones,
        16 + rest * 130 / 1000 as timesheets,
        16 + rest * 30 / 1000 as invoices,
        50 + rest * 140 / 1000 as payments,
        16 + rest * 30 / 1000 as reviews,
        rest
    from base
)
select
    sizes.*,
    -- what is left, so that the total is exact
    414 + rest - users - va_profiles - companies - badges - skills_assessments
        - portfolio_items - job_postings - matches - match_votes - proposals - jobs
        - contracts - milestones - timesheets - invoices - payments - reviews as notifications
from sizes;

-- The seed tells the columns of one row apart. Integers hash alike on every machine.
create function pg_temp.hash(i bigint, seed bigint) returns bigint
immutable language sql
return hashint8extended(i, seed) & 9223372036854775807;

create function pg_temp.pick(i bigint, seed bigint, n bigint) returns bigint
immutable language sql
return 1 + pg_temp.hash(i, seed) % n;

create function pg_temp.one_of(i bigint, seed bigint, variadic words text[]) returns text
immutable language sql
return words[pg_temp.pick(i, seed, cardinality(words))];

-- Which of n odd cases row i is: the first rows are one each, so that a small database has them
-- all; after those every 100th row is odd, null elsewhere.
create function pg_temp.odd(i bigint, n integer) returns integer
immutable language sql
return case
    when i between 1 and n then i::integer
    when i > n and i % 100 = 0 then (1 + i / 100 % n)::integer
end;

-- Mostly the shape of a Prisma cuid; clients, imports and repairs have left others.
create function pg_temp.id(kind text, i bigint) returns text
immutable language sql
return case i % 1000
    when 2 then md5(kind || i::text)::uuid::text
    when 3 then kind || '_' || i::text
    when 4 then 'Zoë ' || kind || ' № ' || i::text
    when 5 then 'o''neil\' || kind || ',"' || i::text || '"'
    when 6 then 'imported/' || md5(kind) || md5(i::text)
    else 'c' || substr(md5(kind || i::text), 1, 24)
end;

-- A row that no longer exists: its number is below every number in use.
create function pg_temp.gone_id(kind text, i bigint) returns text
immutable language sql
return pg_temp.id(kind, -i);

-- Some companies share their id with a profile: the only targets on which a new review
-- satisfies both of its foreign keys.
create function pg_temp.company_id(i bigint) returns text
immutable language sql
return case when i % 50 in (7, 8) then pg_temp.id('va', i) else pg_temp.id('company', i) end;

-- Profile i belongs to user i, company i to the user that many after the last of those; two
-- companies belong to users who have a profile as well.
create function pg_temp.company_user(i bigint, va_profiles bigint) returns bigint
immutable language sql
return case when i in (11, 12) then i else va_profiles + i end;

-- A deal has one number from proposal to payment: proposal i became job i and contract i.
create function pg_temp.deal_va(i bigint, va_profiles bigint) returns bigint
immutable language sql
return pg_temp.pick(i, 1, va_profiles);

create function pg_temp.deal_posting(i bigint, job_postings bigint) returns bigint
immutable language sql
return pg_temp.pick(i, 2, job_postings);

create function pg_temp.posting_company(posting bigint, companies bigint) returns bigint
immutable language sql
return pg_temp.pick(posting, 3, companies);

create function pg_temp.deal_company(i bigint, job_postings bigint, companies bigint)
returns bigint
immutable language sql
return pg_temp.posting_company(pg_temp.deal_posting(i, job_postings), companies);

-- A pair matches once: every round of match numbers gives each posting its next profile.
create function pg_temp.match_pair(
    i bigint, job_postings bigint, va_profiles bigint, out posting bigint, out va bigint
) returns setof record
immutable language sql
as $$
select
    1 + (i - 1) % job_postings,
    1 + (
        pg_temp.hash(1 + (i - 1) % job_postings, 4) % va_profiles + (i - 1) / job_postings
    ) % va_profiles
-- keeps PostgreSQL from working the pair out anew wherever it is used
offset 0
$$;

-- A moment of 2025 to the millisecond; the first rows sit on the edges of days, years, leap
-- years, summer time and 32 bits.
create function pg_temp.moment(i bigint, seed bigint) returns timestamp
immutable language sql
return coalesce(
    (array[
        timestamp '2025-01-01 00:00:00.000',
        timestamp '2025-12-31 23:59:59.999',
        timestamp '2024-02-29 23:59:59.999',
        timestamp '2025-03-30 02:30:00.001',
        timestamp '2025-10-26 02:30:00.010',
        timestamp '1970-01-01 00:00:00.000',
        timestamp '2038-01-19 03:14:08.100'
    ])[i],
    timestamp '2025-01-01'
        + interval '1 millisecond' * (pg_temp.hash(i, seed) % 31536000000)
);

create function pg_temp.hours(n bigint) returns interval
immutable language sql
return interval '1 hour' * n;

-- Dollars and cents, as a double: most is in cents.
create function pg_temp.amount(i bigint, seed bigint, most bigint) returns double precision
immutable language sql
return pg_temp.pick(i, seed, most) / 100::double precision;

-- As JavaScript writes a Date.
create function pg_temp.iso(moment timestamp) returns text
stable language sql
return to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
