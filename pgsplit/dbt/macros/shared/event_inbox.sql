{#
    event_inbox(shared): the ordered inbox of what happens to the rows of a shared table.

    A feature of a shared table, switched on in its yml:

    | config.meta | example                          | meaning                                    |
    |-------------|----------------------------------|--------------------------------------------|
    | entity      | user                             | what a row is; names everything below      |
    | events      | [id, email, role, name, avatar]  | the columns that an event carries          |
    | tombstone   | deleted_at                       | the column that says when a row was deleted |

    It makes, for the entity `user`, in the service's schema:

    | object                          | what for                                              |
    |---------------------------------|-------------------------------------------------------|
    | user_events                     | one row an event, in the order of `sequence`          |
    | user_events_since(since, most)  | the events after a sequence number, as documents      |

    Whatever changes the table appends its events in the same transaction. So each change has exactly
    one event, across crashes and replays too. Only split.sync() changes the table, one caller at a
    time, so no event ever appears before one that a reader has seen. `NOTIFY user_events` carries the
    last sequence number. Appending removes events older than split.service.keep_events. A reader who
    asks for events after one that is gone, or after one that never was, gets an error that says so.
    The first copy makes no events. Idempotent.
#}
{% macro event_inbox(shared) %}
    {% set entity = model.config.meta.entity %}
    {% set inbox = shared.schema ~ '.' ~ entity ~ '_events' %}
    {{ pgsplit._event_inbox_table(inbox, entity) }}
    {{ pgsplit._event_inbox_data(shared, entity) }}
    {{ pgsplit._event_inbox_append(inbox, entity) }}
    {{ pgsplit._event_inbox_since(shared, inbox, entity) }}
    create or replace trigger split_{{ entity }}_created
    after insert on {{ shared }} referencing new table as became
    for each statement execute function split.append_{{ entity }}_events();
    create or replace trigger split_{{ entity }}_changed
    after update on {{ shared }} referencing old table as was new table as became
    for each statement execute function split.append_{{ entity }}_events();
{% endmacro %}


{% macro _event_inbox_table(inbox, entity) %}
    {% set name, key = entity | upper, model.columns[pgsplit.service_table_key()] %}
    -- A sync would hold one of the tables and wait for the other, so it waits before it begins.
    lock table split.turn in share mode;
    insert into split.inboxes (entity, removed_to) values ('{{ entity }}', 0)
    on conflict (entity) do nothing;
    create table if not exists {{ inbox }} (
        sequence bigint generated always as identity primary key,
        type text not null check (type in ('{{ name }}_CREATED', '{{ name }}_UPDATED', '{{ name }}_DELETED')),
        {{ entity }}_id {{ key.data_type }} not null,
        data jsonb not null,
        timestamp timestamptz not null default clock_timestamp()
    );
    create index if not exists {{ entity }}_events_timestamp_idx on {{ inbox }} (timestamp);
    comment on table {{ inbox }} is
    'What happened to {{ entity }}s, in order; LISTEN {{ entity }}_events tells of more.';
{% endmacro %}


{# What an event carries of a row. #}
{% macro _event_inbox_data(shared, entity) %}
    create or replace function split.{{ entity }}_data(shared {{ shared }})
    returns jsonb
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
    as $data$
        select jsonb_strip_nulls(jsonb_build_object(
            {% for name in model.config.meta.events %}
                '{{ name }}', shared.{{ name }}{{ ',' if not loop.last }}
            {% endfor %}
        ))
    $data$;
{% endmacro %}
