{#
    take_up(relation): takes up a model that has changed since its service was switched, by changing
    nothing but what is known of the table.

    The team has given the table the shape that the model has now, and the reverse model carries what the
    monolith has room for. Then the table's columns are noted as the model's, and its rows follow the new
    SQL after a rollback. What a rollback could not carry is refused by split.take_up(), and nothing
    changes. The caller has locked split.turn.
#}
{% macro take_up(relation) %}
    {% set names = pgsplit.service_table_constraints(relation) | map(attribute='name') | map('tojson') | join(',') %}
    select split.take_up({{ dbt.string_literal(relation.identifier) }}, {{ dbt.string_literal('{' ~ names ~ '}') }});
{% endmacro %}


{# Stops dbt unless a table has the columns and the new constraints of its model, with the statements that add them. #}
{% macro assert_table_has_shape(relation, sql, made) %}
    {% set columns, constraints = {}, {} %}
    {% for column in pgsplit.service_table_columns(model) %}
        {% do columns.update({column.name: column.is_not_null}) %}
    {% endfor %}
    {% for constraint in pgsplit.service_table_constraints(relation) %}
        {% do constraints.update({constraint.name: constraint.definition}) %}
    {% endfor %}
    {% set found = run_query(
        "select * from split.lacks(" ~ dbt.string_literal(relation.identifier) ~ ", " ~ pgsplit.service_table_definition(sql)
        ~ ", " ~ dbt.string_literal(dbt.escape_single_quotes(tojson(columns)))
        ~ ", " ~ dbt.string_literal(dbt.escape_single_quotes(tojson(constraints))) ~ ")"
    ).rows %}
    {% if found %}
        {% do exceptions.raise_compiler_error(
            this.schema ~ "." ~ this.identifier ~ " is written by the service since " ~ made.switched_at ~ ", and does not have"
            ~ " the shape that " ~ model.patch_path ~ " has now. Nothing was changed. Give it that shape by a migration of the"
            ~ " service's, or put the model back as it was. " ~ found | map(attribute=0) | join(' ')
        ) %}
    {% endif %}
{% endmacro %}
