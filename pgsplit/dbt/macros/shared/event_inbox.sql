{#
    event_inbox(shared): the ordered inbox of what happens to the rows of a shared table.

    A feature of a shared table, switched on in its yml:

    | config.meta | example                          | meaning                                   |
    |-------------|----------------------------------|-------------------------------------------|
    | entity      | user                             | what a row is; names everything below     |
    | events      | [id, email, role, name, avatar]  | the columns that an event carries         |
    | tombstone   | deleted_at                       | the column that tells that a row is gone  |

    It makes, for the entity `user`, in the service's schema:

    | object                          | what for                                              |
    |---------------------------------|-------------------------------------------------------|
    | user_events                     | one row an event, in the order of `sequence`          |
    | user_events_since(since, most)  | the events after one that was read, as documents      |

    Whatever changes the table appends its events in the same transaction, so there is one for each
    change, exactly once, also across crashes and replays. Only split.sync() changes it, one caller at
    a time, so whoever has seen an event never sees an earlier one come later. `NOTIFY user_events`
    carries the last sequence number. Events older than split.service.keep_events are removed as
    others come; who asks for events after one that is gone, or one that never was, is told so. The
    first copy makes no events.
#}
{% macro event_inbox(shared) %}
    {% set meta = model.config.meta %}
    {% set entity, schema, key = meta.entity, shared.schema, pgsplit.service_table_key() %}
    {% set inbox = schema ~ '.' ~ entity ~ '_events' %}
    {% set created, updated, deleted = entity | upper ~ '_CREATED', entity | upper ~ '_UPDATED', entity | upper ~ '_DELETED' %}
    -- A sync holds one of the tables and waits for the other; so it has to wait before it begins.
    lock table split.turn in exclusive mode;
    insert into split.inboxes (entity, removed_to) values ('{{ entity }}', 0)
    on conflict (entity) do nothing;
    create table if not exists {{ inbox }} (
        sequence bigint generated always as identity primary key,
        type text not null check (type in ('{{ created }}', '{{ updated }}', '{{ deleted }}')),
        {{ entity }}_id {{ model.columns[key].data_type }} not null,
        data jsonb not null,
        timestamp timestamptz not null default clock_timestamp()
    );
    create index if not exists {{ entity }}_events_timestamp_idx on {{ inbox }} (timestamp);
    comment on table {{ inbox }} is
    'What happened to {{ entity }}s, in order: an inbox that LISTEN {{ entity }}_events tells of.';

    -- A session keeps its plans: one for a few rows would join many of them each with each.
    create or replace function split.append_{{ entity }}_events()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set enable_nestloop = off
    as $append$
    declare
        appended bigint;
        last_sequence bigint;
        removed_to_now bigint;
    begin
        if tg_op = 'INSERT' then
            insert into {{ inbox }} (type, {{ entity }}_id, data)
            select '{{ created }}', became.{{ key }}, split.{{ entity }}_data(became)
            from became
            order by became.{{ key }};
            get diagnostics appended = row_count;
            {% if meta.read_through %}
                delete from split.fetched_{{ entity }}s as fetched using became where fetched.{{ key }} = became.{{ key }};
            {% endif %}
        else
            insert into {{ inbox }} (type, {{ entity }}_id, data)
            select
                case
                    when became.{{ meta.tombstone }} is not null then '{{ deleted }}'
                    when was.{{ meta.tombstone }} is not null then '{{ created }}'
                    else '{{ updated }}'
                end,
                became.{{ key }},
                split.{{ entity }}_data(became)
            from became
            inner join was on became.{{ key }} = was.{{ key }}
            order by became.{{ key }};
            get diagnostics appended = row_count;
        end if;
        if appended = 0 then
            return null;
        end if;

        delete from {{ inbox }}
        where timestamp < clock_timestamp() - (select keep_events from split.service);
        if found then
            select min(sequence) - 1 into removed_to_now from {{ inbox }};
            update split.inboxes set removed_to = removed_to_now where entity = '{{ entity }}';
        end if;
        select max(sequence) into last_sequence from {{ inbox }};
        perform pg_notify('{{ entity }}_events', last_sequence::text);
        return null;
    end
    $append$;

    create or replace function split.{{ entity }}_data(shared {{ shared }})
    returns jsonb
    language sql
    immutable
    as $data$
        select jsonb_strip_nulls(jsonb_build_object(
            {% for name in meta.events %}
                '{{ name }}', shared.{{ name }}{{ ',' if not loop.last }}
            {% endfor %}
        ))
    $data$;

    create or replace function {{ inbox }}_since(since bigint, most integer default 1000)
    returns table (sequence bigint, event jsonb)
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    as $since$
    declare
        removed_to bigint := (select inboxes.removed_to from split.inboxes where entity = '{{ entity }}');
        last_sequence bigint := coalesce((select max(events.sequence) from {{ inbox }} as events), removed_to);
    begin
        if since not between removed_to and last_sequence then
            raise exception using
                errcode = 'no_data_found',
                message = case
                    when since < removed_to
                        then format('The {{ entity }} events up to %s are gone, and what follows %s was asked for.', removed_to, since)
                    else format('The last {{ entity }} event is %s, and what follows %s was asked for.', last_sequence, since)
                end,
                hint = format(
                    'Read all of {{ shared.schema }}.{{ shared.identifier }} again, in one repeatable-read transaction with:'
                    ' select coalesce(max(sequence), %s) from {{ inbox }}; then go on after that.', removed_to
                );
        end if;
        return query
        select
            events.sequence,
            jsonb_build_object(
                'type', events.type,
                '{{ entity }}Id', events.{{ entity }}_id,
                'data', events.data,
                'timestamp', to_char(events.timestamp at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
            )
        from {{ inbox }} as events
        where events.sequence > since
        order by events.sequence
        limit most;
    end
    $since$;

    revoke execute on function {{ inbox }}_since(bigint, integer) from public;
    grant execute on function {{ inbox }}_since(bigint, integer) to {{ pgsplit.service_login() }};

    create or replace trigger split_{{ entity }}_created
    after insert on {{ shared }} referencing new table as became
    for each statement execute function split.append_{{ entity }}_events();
    create or replace trigger split_{{ entity }}_changed
    after update on {{ shared }} referencing old table as was new table as became
    for each statement execute function split.append_{{ entity }}_events();
{% endmacro %}
