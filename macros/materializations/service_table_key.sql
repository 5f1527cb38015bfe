{#
    service_table_key(): the names of the primary key's columns, in order.

    Refuses a model without one: a row without an identity can't follow its source.
#}
{% macro service_table_key() %}
    {% for constraint in model.constraints if constraint.type == 'primary_key' %}
        {% do return(constraint.columns) %}
    {% endfor %}
    {% for column in model.columns.values() %}
        {% for constraint in column.constraints if constraint.type == 'primary_key' %}
            {% do return([column.name]) %}
        {% endfor %}
    {% endfor %}
    {% do exceptions.raise_compiler_error(
        model.name ~ " has no primary key. Give one of its columns in " ~ model.patch_path
        ~ " the line `constraints: [{type: primary_key}]`."
    ) %}
{% endmacro %}
