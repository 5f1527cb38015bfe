{#
    A query without rows that has a contract's columns and types.

    dbt's own warns of every `numeric` without precision; here those are money, unbounded on
    purpose and held to the cent by a check, which refuses what a precision would round.
#}
{% macro postgres__get_empty_schema_sql(columns) %}
    select
        {% for column in columns.values() %}
            cast(null as {{ column.data_type }}) as {{ adapter.quote(column.name) }}{{ ',' if not loop.last }}
        {% endfor %}
    limit 0
{% endmacro %}
