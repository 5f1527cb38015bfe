{#
    service_table_columns(node): a model's columns with all that their yml says of them, spelled out.

    | output      | meaning                                                                      |
    |-------------|------------------------------------------------------------------------------|
    | name, type  | as given                                                                     |
    | default     | `config.meta.default`: SQL, or the name of a macro that gives it; else none  |
    | is_not_null | part of the primary key, or of a constraint `not_null` of column or model    |
    | constraints | the others of the column, and those that its kind brings along               |

    `config.meta.kind` is the name of a macro that takes the model's and the column's name and gives
    constraints; see money().
#}
{% macro service_table_columns(node) %}
    {% set found = [] %}
    {% set not_null = [] %}
    {% for constraint in node.constraints if constraint.type == 'not_null' %}
        {% do not_null.extend(constraint.columns) %}
    {% endfor %}
    {% for column in node.columns.values() %}
        {% set meta = column.config.meta %}
        {% set types = column.constraints | map(attribute='type') | map('string') | list %}
        {% set constraints = column.constraints | rejectattr('type', 'equalto', 'not_null') | list %}
        {% do found.append({
            'name': column.name,
            'type': column.data_type,
            'default': context[meta.default]() if meta.get('default') in context else meta.get('default'),
            'is_not_null': column.name in not_null or 'not_null' in types or 'primary_key' in types,
            'constraints': constraints + (context[meta.kind](node.name, column.name) if meta.kind is defined else []),
        }) %}
    {% endfor %}
    {% do return(found) %}
{% endmacro %}
