-- The schema split of the monolith: what was done, and where each service stands. Whoever changes
-- this file raises VERSION in pgsplit/state/schema.py; what `create … if not exists` can't change
-- needs a file in upgrades/ too.
create schema if not exists split;

create table if not exists split.version (
    version integer primary key,
    installed_at timestamptz not null default clock_timestamp()
);

create table if not exists split.ledger (
    id bigint generated always as identity primary key,
    service text not null,
    step text not null,
    intent jsonb not null,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    outcome text check (outcome in ('done', 'failed')),
    detail jsonb
);

create table if not exists split.states (
    service text primary key,
    state text not null,
    since timestamptz not null default clock_timestamp()
);

create table if not exists split.verifications (
    service text not null,
    table_name text not null,
    definition text not null,
    started_at timestamptz not null,
    finished_at timestamptz not null default clock_timestamp(),
    is_proven boolean not null,
    result jsonb not null,
    primary key (service, table_name)
);

-- Written here and replicated: once one arrives, so has all that was committed before it.
create table if not exists split.heartbeats (
    service text primary key,
    at timestamptz not null
);

-- Where the other tables have moved to, or come from; empty in a monolith that has kept them.
create table if not exists split.control (
    is_only boolean primary key default true check (is_only),
    move uuid not null,
    stands text not null check (stands in ('arriving', 'here', 'gone')),
    other text not null,
    last_step bigint not null,
    at timestamptz not null default clock_timestamp()
);
comment on table split.control is
'Whether this is the control database; `other` is the one at the other end of the last move.';

-- Locked by the runner that is at work, for as long as it is: only our own roles can lock it.
create table if not exists split.runner (
    is_only boolean primary key default true check (is_only),
    session integer not null,
    operator text not null,
    host text not null,
    process integer not null,
    command text not null,
    since timestamptz not null default clock_timestamp()
);
comment on table split.runner is 'Who runs the runner that was at work last.';

-- Whoever changes a running operation's throttle writes it here. Its row is also what the throttle
-- locks to measure how long a write takes.
create table if not exists split.throttle (
    is_only boolean primary key default true check (is_only),
    max_impact double precision check (max_impact > 0),
    asked_at timestamptz
);
insert into split.throttle default values on conflict do nothing;
comment on table split.throttle is
'How much slower writes may be while a throttled operation runs, as last asked for; null for off.';
