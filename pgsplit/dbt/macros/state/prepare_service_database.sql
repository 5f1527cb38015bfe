{#
    prepare_service_database(): what dbt needs in a service database before the first model.

    Runs at the start of every dbt command that builds. Idempotent and atomic; the advisory
    lock makes two dbt processes take turns, since two `create or replace` of one function fail.
    split.turn does the same with a sync, which would wait for what is locked here and be waited for.
    It makes, in the schema `split`:

    | object                | what for                                                           |
    |-----------------------|--------------------------------------------------------------------|
    | split.service         | one row: how far the service's tables follow, and since when they are the truth |
    | split.service_tables  | the tables this project made, by oid, and what they were made of   |
    | split.mirror_tables   | the mirror's tables that can be rebuilt from them, and how         |
    | split.changes         | the rows that have changed since the last sync: the mirror's, and, once the service is switched, its own |
    | split.turn            | locked by whoever brings the service's tables up to date           |
    | split.enforce()       | adds a constraint, or says which rows break it                     |
    | split.sync()          | brings all tables up to date in one transaction                    |
    | split.way_back_differs()| what the reverse models would change of the mirror               |
    | split.prepare_switch()| makes the service's own tables record their changes                |
    | split.keep_unlike()   | lays aside what the monolith can't hold, before a rollback         |

    and the triggers and indexes of the mirror.
#}
{% macro prepare_service_database() %}
    {% if execute and flags.WHICH in ['build', 'run', 'test', 'seed'] %}
        select pg_advisory_xact_lock(hashtext('split.prepare'));
        create schema if not exists split;
        {{ pgsplit.become_owner('split') }}

        {% if not pgsplit.is_monolith() %}
            create table if not exists split.turn ();
            lock table split.turn in exclusive mode;
            comment on table split.turn is 'Locked, and never written, by whoever syncs.';

            create table if not exists split.service (
                is_only boolean primary key default true check (is_only),
                synced_at timestamptz,
                as_of timestamptz,
                switched_at timestamptz,
                first_write_at timestamptz,
                keep_events interval not null default interval '30 days',
                events_removed_to bigint not null default 0
            );
            insert into split.service default values on conflict do nothing;
            comment on table split.service is 'How far the service''s tables follow the monolith.';
            comment on column split.service.synced_at is 'When the last sync ended, by this server''s clock.';
            comment on column split.service.as_of is
            'The last heartbeat in it, by the monolith''s clock: what was committed before is here.';
            comment on column split.service.switched_at is
            'Since when the service writes its tables itself; null as long as the monolith is the truth.';
            comment on column split.service.first_write_at is
            'When the service wrote first since then, by this server''s clock.';
            comment on column split.service.keep_events is 'How long user events are kept.';
            comment on column split.service.events_removed_to is
            'The last of the user events that are gone, being older than that.';

            create table if not exists split.inboxes (
                entity text primary key,
                removed_to bigint not null
            );
            comment on table split.inboxes is
            'Inboxes of what happens to shared rows, and the last event of each that is gone, being too old.';

            create table if not exists split.service_tables (
                table_name text primary key,
                table_oid oid not null,
                structure text not null,
                definition text not null,
                follows text[] not null,
                owned_rows text not null,
                tombstone text,
                is_stale boolean not null default false,
                built_at timestamptz not null default now()
            );
            -- A table that an operator has dropped is made anew by this run.
            delete from split.service_tables as tables
            where not exists (select from pg_catalog.pg_class as class where class.oid = tables.table_oid);
            comment on table split.service_tables is
            'Tables that this project made: a checksum of their columns, keys and indexes, the SQL that'
            ' gives their rows, the mirror tables that it reads, which rows are the service''s once it is'
            ' switched, which column tells that a row is gone from the mirror, and whether all rows must be'
            ' compared.';

            create table if not exists split.mirror_tables (
                table_name text primary key,
                definition text not null,
                follows text[] not null,
                is_stale boolean not null default false
            );
            comment on table split.mirror_tables is
            'Tables of the mirror that split.sync() keeps equal to the service''s once it is switched: the SQL'
            ' that gives their rows, the service''s tables that it reads, and whether all rows must be compared.';

            create table if not exists split.changes (
                changed_table text not null,
                key_name text not null,
                key text,
                at timestamptz
            );
            comment on table split.changes is
            'Keys of rows that have changed since the last sync; a null key means all of them. `at` is known of'
            ' what the service itself has written.';

            create table if not exists split.deleted_rows (
                table_name text not null,
                key text not null,
                row jsonb not null,
                deleted_at timestamptz not null default clock_timestamp()
            );
            create index if not exists deleted_rows_key_idx on split.deleted_rows (table_name, key);
            comment on table split.deleted_rows is
            'Rows that the service has deleted although others share columns of them, so that runner.py'
            ' reconcile can bring them back; kept as long as events are.';

            {{ pgsplit.create_enforce_function() }}
            {{ pgsplit.create_capture_functions() }}
            {{ pgsplit.create_sync_function() }}
            {{ pgsplit.create_way_back_function() }}
            {{ pgsplit.create_keep_function() }}
            {{ pgsplit.capture_mirror() }}
            {{ pgsplit.capture_service() }}
        {% endif %}
    {% endif %}
{% endmacro %}
