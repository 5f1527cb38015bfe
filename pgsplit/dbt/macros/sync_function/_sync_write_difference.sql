{#
    _sync_write_difference(relation, sync): the part of a sync function that writes the rows that differ.

    Rows that a stale table loses are kept first; see split.keep_replaced().

    A row of a table with a tombstone is not deleted: that column gets the time, and the row stays as it
    last was until it comes back.
#}
{% macro _sync_write_difference(relation, sync) %}
    {% if not pgsplit.is_reverse(model) %}
        if _stale then
            perform split.keep_replaced({{ dbt.string_literal(relation) }}, {{ dbt.string_literal(sync.key) }}, {{ dbt.string_literal(sync.difference) }});
        end if;
    {% endif %}

    -- An array, because the planner takes it for short and looks its keys up.
    delete from {{ relation }}
    where {{ sync.key }} = any(array(select _key from {{ sync.difference }} where _is_in_the_way));

    {% if sync.tombstone %}
        update {{ relation }}
        set {{ adapter.quote(sync.tombstone) }} = clock_timestamp() at time zone 'utc'
        where {{ sync.key }} = any(array(select _key from {{ sync.difference }} where _vanished));
    {% endif %}

    insert into {{ relation }} ({{ pgsplit.quoted(sync.columns) }})
    select {{ pgsplit.quoted(sync.columns) }}
    from {{ sync.difference }}
    where not _vanished
    on conflict ({{ sync.key }}) do
    {% for name in sync.columns if adapter.quote(name) != sync.key %}
        {{ 'update set' if loop.first }} {{ adapter.quote(name) }} = excluded.{{ adapter.quote(name) }}{{ ',' if not loop.last }}
    {% else %}
        nothing
    {% endfor %};
{% endmacro %}
