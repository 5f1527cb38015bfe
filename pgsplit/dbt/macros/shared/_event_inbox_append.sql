{#
    _event_inbox_append(inbox, entity): the trigger function that turns changed rows into events.

    Removes events that are too old, and notifies listeners. Runs as the schema's owner.
#}
{% macro _event_inbox_append(inbox, entity) %}
    {% set meta, name, key = model.config.meta, entity | upper, pgsplit.service_table_key() %}
    -- A session keeps its plans, and one made for a few rows would join many with a nested loop.
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
            select '{{ name }}_CREATED', became.{{ key }}, split.{{ entity }}_data(became)
            from became
            order by became.{{ key }};
            get diagnostics appended = row_count;
            {% if meta.read_through %}
                delete from split.fetched_{{ entity }}s as fetched
                using became where fetched.{{ key }} = became.{{ key }};
            {% endif %}
        else
            insert into {{ inbox }} (type, {{ entity }}_id, data)
            select
                case
                    when became.{{ meta.tombstone }} is not null then '{{ name }}_DELETED'
                    when was.{{ meta.tombstone }} is not null then '{{ name }}_CREATED'
                    else '{{ name }}_UPDATED'
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
{% endmacro %}
