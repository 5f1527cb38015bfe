{#
    service_table_key(): the name of the primary key's only column.

    Refuses a model without one: a row without an identity can't follow its source.
#}
{% macro service_table_key() %}
    {% for column in model.columns.values() %}
        {% for constraint in column.constraints if constraint.type == 'primary_key' %}
            {% do return(column.name) %}
        {% endfor %}
    {% endfor %}
    {% do exceptions.raise_compiler_error(
        model.name ~ " has no primary key of one column. Give one of its columns in " ~ model.patch_path
        ~ " the line `constraints: [{type: primary_key}]`."
    ) %}
{% endmacro %}
