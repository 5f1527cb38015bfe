-- The schema split of a service's database: its tables. The functions are in service/. Whoever
-- changes any of these files raises VERSION in pgsplit/state/schema.py; what
-- `create … if not exists` can't change needs a file in upgrades/ too.

-- The schema's owner owns what is made here, whoever is logged in.
select set_config('role', pg_get_userbyid(namespaces.nspowner), true)
from pg_catalog.pg_namespace as namespaces
where namespaces.nspname = 'split';

create table if not exists split.turn ();
comment on table split.turn is 'The sync lock: locked by whoever syncs, and never written.';
-- A sync in progress uses the functions that are about to be replaced.
lock table split.turn in exclusive mode;

create table if not exists split.version (
    version integer primary key,
    installed_at timestamptz not null default clock_timestamp()
);
comment on table split.version is
'The versions that this schema has had; the highest one is its version now.';

create table if not exists split.service (
    is_only boolean primary key default true check (is_only),
    synced_at timestamptz,
    as_of timestamptz,
    switched_at timestamptz,
    first_write_at timestamptz,
    keep_events interval not null default interval '30 days',
    database text not null,
    mirror text not null,
    database_oid oid,
    failed_at timestamptz,
    failure text,
    keeps_replaced boolean not null default false,
    ended_switch timestamptz,
    completed_at timestamptz
);
insert into split.service (database, mirror, database_oid)
select
    current_setting('split.database') as database,
    current_setting('split.mirror') as mirror,
    databases.oid as database_oid
from pg_catalog.pg_database as databases
where databases.datname = current_database()
on conflict do nothing;
comment on table split.service is 'How far the service''s tables follow the monolith.';
comment on column split.service.synced_at is 'When the last sync ended, by this server''s clock.';
comment on column split.service.as_of is
'The last heartbeat in it, by the monolith''s clock: all that was committed before it is here.';
comment on column split.service.switched_at is
'Since when the service writes its tables itself; null while the monolith is the source of truth.';
comment on column split.service.ended_switch is
'The `switched_at` that the last rollback has ended; it tells whether a monolith has forgotten that'
' rollback.';
comment on column split.service.completed_at is
'Since when its replication to the monolith has ended for good; it tells whether a monolith has'
' forgotten that completion.';
comment on column split.service.first_write_at is
'When the service first wrote after that, by this server''s clock.';
comment on column split.service.keep_events is 'How long events are kept.';
comment on column split.service.database is
'The service''s database as the project calls it; the schema of its own tables has the same name.';
comment on column split.service.mirror is 'The schema of the mirror.';
comment on column split.service.database_oid is
'The database in which table oids were recorded; a restored dump is in another one.';
comment on column split.service.failed_at is
'Since when every sync has failed; null if the last one has not.';
comment on column split.service.failure is 'What it failed with.';
comment on column split.service.keeps_replaced is
'Whether rows that a comparison of a whole table replaces or deletes are copied to the schema audit'
' first: from the switch, or a broken stream, until a verification has proven every row.';

create table if not exists split.inboxes (
    entity text primary key,
    removed_to bigint not null
);
comment on table split.inboxes is
'Event inboxes of shared rows, each with the last event that was removed because of its age.';

create table if not exists split.service_tables (
    table_name text primary key,
    table_oid oid not null,
    structure text not null,
    definition text not null,
    follows text[] not null,
    owned_rows text not null,
    tombstone text,
    is_stale boolean not null default false,
    built_at timestamptz not null default now(),
    followed jsonb
);
comment on table split.service_tables is
'Tables that this project made: a checksum of their columns, keys and indexes, the SQL that gives'
' their rows, the mirror tables that it reads, the rows that belong to the service once it is'
' switched, the column that marks rows missing from the mirror, and whether all rows must be'
' compared.';

comment on column split.service_tables.followed is
'Which keys of which tables touch its rows, and by which column; null if an earlier version has'
' built it.';

create table if not exists split.made_objects (
    table_name text not null,
    kind text not null,
    name text not null,
    definition text not null,
    primary key (table_name, kind, name)
);
comment on table split.made_objects is
'Columns, constraints, unique indexes and the like of the tables that this project made, as it made'
' them; split.own_changes() compares them with what is there.';

create table if not exists split.resting_triggers (
    table_name text not null,
    trigger_name text not null,
    was "char" not null,
    primary key (table_name, trigger_name)
);
comment on table split.resting_triggers is
'The service''s own triggers that are disabled while its tables follow the monolith, and how they'
' were enabled; the next switch enables them again.';

create table if not exists split.mirror_tables (
    table_name text primary key,
    definition text not null,
    follows text[] not null,
    is_stale boolean not null default false,
    shared_definition text,
    followed jsonb
);
comment on table split.mirror_tables is
'Tables of the mirror that split.sync() keeps equal to the service''s once it is switched: the SQL'
' that gives their rows, the service''s tables that it reads, and whether all rows must be'
' compared.';
comment on column split.mirror_tables.shared_definition is
'The SQL that gives only what others share, which is all that is kept from the completion on; empty'
' if nobody shares anything, null if an earlier version has built it.';

comment on column split.mirror_tables.followed is 'See split.service_tables.';

create table if not exists split.shared_columns (
    table_name text not null,
    column_name text not null,
    services text[] not null,
    place integer not null,
    primary key (table_name, column_name)
);
comment on table split.shared_columns is
'Columns of the mirror''s tables that other services share, and which services do.';

create table if not exists split.shared_reads (
    table_name text not null,
    column_name text not null,
    service_table text not null,
    service_column text not null,
    primary key (table_name, column_name, service_table, service_column),
    foreign key (table_name, column_name) references split.shared_columns on delete cascade
);
comment on table split.shared_reads is
'The columns of the service''s own tables that such a column is made from.';

create table if not exists split.changes (
    changed_table text not null,
    key_name text not null,
    key text,
    at timestamptz
);
-- Without a key, so that a row costs little to write; another tool may still publish its deletion.
alter table split.changes replica identity full;
comment on table split.changes is
'Keys of rows that have changed since the last sync; a null key means all rows. `at` is set for'
' what the service itself has written.';

create table if not exists split.unproven (
    changed_table text not null,
    key_name text not null,
    key text,
    epoch bigint not null
);
alter table split.unproven replica identity full;
comment on table split.unproven is
'Changes that syncs have applied since the service''s tables were proven, as in split.changes.';

create or replace view split.changes_since_proof as
select
    changed_table,
    key_name,
    key
from split.unproven
union all
select
    changed_table,
    key_name,
    key
from split.changes;
comment on view split.changes_since_proof is
'Keys of all rows that have changed since the service''s tables were proven.';

create table if not exists split.proof (
    is_only boolean primary key default true check (is_only),
    epoch bigint not null default 0,
    keys bigint not null default 0,
    most bigint not null default 100000,
    proven_at timestamptz,
    checked_at timestamptz,
    evidence jsonb,
    rebuilt text[] not null default '{}',
    begun_epoch bigint,
    begun_evidence jsonb
);
comment on table split.proof is
'When a verification has last compared all rows, and when it or one of the rows that had changed'
' since has found all of them right; what the tables consisted of then, and the mirror''s tables'
' that the reverse models rebuild. `keys` counts split.unproven; above `most` nothing is noted.';

create table if not exists split.deleted_rows (
    table_name text not null,
    key text not null,
    row jsonb not null,
    deleted_at timestamptz not null default clock_timestamp()
);
alter table split.deleted_rows replica identity full;
create index if not exists deleted_rows_key_idx on split.deleted_rows (table_name, key);
comment on table split.deleted_rows is
'Rows that the service has deleted although others share columns of them, so that runner.py'
' reconcile can bring them back; kept as long as events are.';

-- Replicated: once one arrives, so has all that was committed before it.
create table if not exists split.heartbeats (
    service text primary key,
    at timestamptz not null
);
