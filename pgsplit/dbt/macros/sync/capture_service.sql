{#
    capture_service(): functions that make a service's own tables record what is written there.

    | function                     | what it does                                                    |
    |------------------------------|-----------------------------------------------------------------|
    | split.capture_SCHEMA_TABLE() | records the keys that the reverse models follow                  |
    | split.prepare_switch(login)  | puts the triggers on the tables, and lets the login write them   |

    The switch calls split.prepare_switch(); until then nobody writes these tables. Idempotent. For
    split.record_writes() see pgsplit/state/sql/service/own_tables.sql.
#}
{% macro capture_service() %}
    {% set keys, keeps = {}, {} %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' and pgsplit.is_reverse(node) %}
        {% for followed in pgsplit.followed_tables(node) %}
            {% do keys.setdefault(followed.table, []).append(followed.key) %}
            {% set mirrored = pgsplit.monolith_tables() | selectattr('name', 'equalto', node.alias) | first %}
            {% if mirrored.config.meta.get('shared') %}
                {% do keeps.update({followed.table: followed.key}) %}
            {% endif %}
        {% endfor %}
    {% endfor %}
    {% for table, names in keys.items() %}
        {{ pgsplit.create_capture_function(table, names, keeps.get(table)) }}
    {% endfor %}

    create or replace function split.prepare_switch(login text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $prepare$
    begin
        perform split.record_writes(login);
        {% for table, key in keeps.items() %}
            if not exists (
                select from pg_trigger where tgrelid = '{{ table }}'::regclass and tgname = 'split_refuse_new_key'
            ) then
                create trigger split_refuse_new_key before update on {{ table }}
                for each row when (old.{{ key }} is distinct from new.{{ key }})
                execute function split.refuse_new_key('{{ key }}');
            end if;
        {% endfor %}
    end
    $prepare$;
{% endmacro %}
