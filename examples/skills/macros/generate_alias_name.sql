{# dbt looks for this one in the project itself. #}
{% macro generate_alias_name(custom_alias_name=none, node=none) %}
    {% do return(pgsplit.generate_alias_name(custom_alias_name, node)) %}
{% endmacro %}
