{#
    service_table_create(relation, sql): the statements of a table's first build.

    Pages are left with room for a row's next version, which so needs no new index entries.
    Keys, checks and indexes come after the rows: one sort each, and one scan for all checks,
    instead of one look-up per row. Atomic: the caller's transaction holds all of it, so a failure leaves nothing.
#}
{% macro service_table_create(relation, sql) %}
    create table {{ relation }} (
        {% for column in pgsplit.service_table_columns(model) %}
            {{ adapter.quote(column.name) }} {{ column.type }}
            {%- if column.default is not none %} default {{ column.default }}{% endif %}
            {{- ' not null' if column.is_not_null }}
            {{- ',' if not loop.last }}
        {% endfor %}
    )
    with (fillfactor = 90);

    insert into {{ relation }} ({{ pgsplit.quoted(model.columns) }})
    select {{ pgsplit.quoted(model.columns) }}
    from (
        {{ sql }}
    ) as expected
    {{ pgsplit.breathing() }};

    {# All checks in one scan, and before the foreign keys, whose error would be less clear. #}
    {% set constraints = pgsplit.service_table_constraints(relation) %}
    {% set checks = constraints | selectattr('rank', 'equalto', 4) | list %}
    {% for constraint in constraints %}
        {{ pgsplit.breathe() }}
        {% if constraint.rank != 4 %}
            select split.enforce(
                {{ dbt.string_literal(relation) }},
                {{ dbt.string_literal(constraint.name) }},
                {{ dbt.string_literal(dbt.escape_single_quotes(constraint.definition)) }},
                {{ dbt.string_literal(dbt.escape_single_quotes(constraint.offenders)) }},
                array[{% for name in constraint.key %}{{ dbt.string_literal(name) }}{{ ', ' if not loop.last }}{% endfor %}]
            );
        {% elif constraint == checks[0] %}
            select split.enforce_together(
                {{ dbt.string_literal(relation) }}, {{ dbt.string_literal(dbt.escape_single_quotes(tojson(checks))) }}
            );
        {% endif %}
    {% endfor %}

    {% set indexes = config.get('indexes', []) %}
    {% for index in indexes if index.type != 'hash' %}
        {{ pgsplit._service_table_index(relation, index) }}
    {% endfor %}
    {% for index in indexes if index.type == 'hash' %}
        {% if loop.first %}
            -- A hash index that would fit into this memory is filled in the order of the rows, from page
            -- to page. Sorted by page before, it takes half the time.
            set local maintenance_work_mem = '4MB';
        {% endif %}
        {{ pgsplit._service_table_index(relation, index) }}
    {% endfor %}

    analyze {{ relation }};
{% endmacro %}


{% macro _service_table_index(relation, index) %}
    {{ pgsplit.breathe() }}
    create {{ 'unique ' if index.unique }}index {{ adapter.quote(([relation.identifier] + index.columns) | join('_') ~ '_idx') }}
    on {{ relation }} {% if index.type %}using {{ index.type }} {% endif %}({{ index.columns | join(', ') }});
{% endmacro %}
