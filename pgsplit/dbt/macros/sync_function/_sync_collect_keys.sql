{#
    _sync_collect_keys(relation, sql, sync): the part of a sync function that collects changed keys.

    A row may leave one key for another where a followed column is not the primary key. So the rows
    that are touched are those that hold a key now and those that will.
#}
{% macro _sync_collect_keys(relation, sql, sync) %}
    {% for one in sync.followed %}
        select _whole or changed.is_whole, changed.keys
        into _whole, _keys_{{ loop.index }}
        from split.changed('{{ one.table }}', '{{ one.key }}', _most) as changed;
    {% endfor %}

    {% if sync.follows_other_columns %}
        if not _whole then
            _touched := array(
                select {{ sync.key }} from ({{ sql }}) as expected where {{ sync.is_touched }}
                union
                select {{ sync.key }} from {{ relation }} where {{ sync.is_touched }}
            );
        end if;
    {% endif %}
{% endmacro %}
