{#
    sync_shape(relation): the columns that identify a table's rows, and those that are compared.

    | output  | meaning                                        | a service table's | a mirror table's        |
    |---------|------------------------------------------------|-------------------|-------------------------|
    | key     | the only column of the primary key             | the model's yml   | id                      |
    | columns | all columns, in their order                    | the model's yml   | models/_sources.yml     |
    | unique  | columns of which no two rows may have the same | the model's yml   | `unique` there          |
#}
{% macro sync_shape(relation) %}
    {% set unique = [] %}
    {% if pgsplit.is_reverse(model) %}
        {% set table = pgsplit.monolith_tables() | selectattr('name', 'equalto', relation.identifier) | first %}
        {% do return({
            'key': 'id', 'columns': table.columns.keys() | list, 'unique': table.config.meta.get('unique', [])
        }) %}
    {% endif %}
    {% for constraint in pgsplit.service_table_constraints(relation) if constraint.rank == 2 %}
        {% do unique.extend(constraint.columns) %}
    {% endfor %}
    {% do return({
        'key': pgsplit.service_table_key(), 'columns': model.columns.keys() | list, 'unique': unique | unique | list
    }) %}
{% endmacro %}
