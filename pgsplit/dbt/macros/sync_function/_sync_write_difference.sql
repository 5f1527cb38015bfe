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

    if _in_the_way > 0 then
        -- An array, because the planner takes it for short and looks its keys up.
        delete from {{ relation }}
        where {{ sync.key }} = any(array(select _key from {{ sync.difference }} where _is_in_the_way));
    end if;

    {% if sync.tombstone %}
        update {{ relation }}
        set {{ adapter.quote(sync.tombstone) }} = clock_timestamp() at time zone 'utc'
        where {{ sync.key }} = any(array(select _key from {{ sync.difference }} where _vanished));
    {% endif %}

    {% set values = [] %}
    {% for name in sync.columns if adapter.quote(name) != sync.key %}
        {% do values.append(name) %}
    {% endfor %}
    {# A distributed table can't be joined with a temporary one. #}
    {% set updates = values and not model.config.meta.distribute_by %}
    {% if updates %}
        -- Cheaper than a conflict for each row that is there, which would be checked and locked first.
        if _upserted > _new then
            update {{ relation }} as held
            set
                {% for name in values %}
                    {{ adapter.quote(name) }} = found.{{ adapter.quote(name) }}{{ ',' if not loop.last }}
                {% endfor %}
            from {{ sync.difference }} as found
            where held.{{ sync.key }} = found._key and not found._is_new and not found._vanished and not found._is_in_the_way;
        end if;
    {% endif %}
    {% if updates %}if _new > 0 then{% endif %}

    insert into {{ relation }} ({{ pgsplit.quoted(sync.columns) }})
    select {{ pgsplit.quoted(sync.columns) }}
    from {{ sync.difference }}
    where not _vanished{{ ' and (_is_new or _is_in_the_way)' if updates }}
    on conflict ({{ sync.key }}) do
    {% for name in values %}
        {{ 'update set' if loop.first }} {{ adapter.quote(name) }} = excluded.{{ adapter.quote(name) }}{{ ',' if not loop.last }}
    {% else %}
        nothing
    {% endfor %};
    {% if updates %}end if;{% endif %}
{% endmacro %}
