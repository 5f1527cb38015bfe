{#
    service_table_structure(): a checksum of what a model's yml says about its table's shape.

    Columns with types, defaults and constraints, the table's constraints, its indexes.
#}
{% macro service_table_structure() %}
    {% set columns = [] %}
    {% for column in pgsplit.service_table_columns(model) %}
        {# Tables remember this sum, so a column's constraints stay in this order. #}
        {% set types = column.constraints | map(attribute='type') | map('string') | list %}
        {% set keys = types | select('equalto', 'primary_key') | list %}
        {% set others = types | reject('equalto', 'primary_key') | list %}
        {% set types = keys + (['not_null'] if column.is_not_null else []) + others %}
        {% do columns.append([column.name, column.type, column.default, types]) %}
    {% endfor %}
    {% set constraints = [] %}
    {% for constraint in pgsplit.service_table_constraints(this) %}
        {% do constraints.append([constraint.name, constraint.definition]) %}
    {% endfor %}
    {% do return(local_md5(tojson([columns, constraints, config.get('indexes', [])]))) %}
{% endmacro %}
