{#
    capture_mirror(): statements that make every mirror table record its changes in split.changes.

    For each mirror table that has landed here:

    - a trigger that fires for replication and not for applications. It records the row's keys
      before and after, so that a row that moves is followed from where it was. TRUNCATE records
      a null key, which means every row;
    - a trigger that fires for applications and not for replication. It refuses, since the monolith
      would never learn of what is edited here by hand;
    - the indexes that the models ask for in `config.meta.mirror_indexes`.

    Idempotent. Triggers and indexes are only made where they are missing, since making one waits for
    the transaction that replication is applying. Functions are replaced without waiting. For
    split.watch() and split.index_mirror() see pgsplit/state/sql/service/mirror.sql.
#}
{% macro capture_mirror() %}
    {% set keys = {} %}
    {% for source in pgsplit.monolith_tables()
        if target.name == source.config.meta.get('owner') or target.name in source.config.meta.get('shared', {}) %}
        {% do keys.update({pgsplit.monolith_schema() ~ '.' ~ source.name: ['id']}) %}
    {% endfor %}
    {% set indexes = [] %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' and node.config.materialized == 'service_table' %}
        {% for followed in pgsplit.followed_tables(node) %}
            {% do keys[followed.table].append(followed.key) %}
        {% endfor %}
        {% for mirror, wanted in node.config.meta.get('mirror_indexes', {}).items() %}
            {% for key in wanted %}
                {% do indexes.append({'mirror': mirror, 'key': key}) %}
            {% endfor %}
        {% endfor %}
    {% endfor %}

    {% for table, names in keys.items() %}
        {{ pgsplit.create_capture_function(table, names) }}
        select split.watch('{{ table.split('.')[1] }}');
    {% endfor %}

    {% for index in indexes %}
        select split.index_mirror('{{ index.mirror }}', '{{ index.key }}', $key${{ pgsplit.followed_key(index.key) }}$key$);
    {% endfor %}
{% endmacro %}
