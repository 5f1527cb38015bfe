{# dbt looks for this one in the project itself. #}
{% macro source(schema_name, table_name) %}
    {% do return(pgsplit.source(schema_name, table_name)) %}
{% endmacro %}
