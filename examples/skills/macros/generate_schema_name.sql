{# dbt looks for this one in the project itself. #}
{% macro generate_schema_name(custom_schema_name, node) %}
    {% do return(pgsplit.generate_schema_name(custom_schema_name, node)) %}
{% endmacro %}
