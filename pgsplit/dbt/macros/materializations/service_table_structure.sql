{#
    service_table_structure(): a checksum of what a model's yml says about its table's shape.

    Columns with types, defaults and constraints, the table's constraints, its indexes.
#}
{% macro service_table_structure() %}
    {% set columns = [] %}
    {% for column in model.columns.values() %}
        {% do columns.append([
            column.name, column.data_type, column.config.meta.get('default'), column.constraints | map(attribute='type') | map('string') | list
        ]) %}
    {% endfor %}
    {% set constraints = [] %}
    {% for constraint in pgsplit.service_table_constraints(this) %}
        {% do constraints.append([constraint.name, constraint.definition]) %}
    {% endfor %}
    {% do return(local_md5(tojson([columns, constraints, config.get('indexes', [])]))) %}
{% endmacro %}
