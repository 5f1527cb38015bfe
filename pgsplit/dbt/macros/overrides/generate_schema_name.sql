{#
    A node's schema is what it asks for, else the target's, which bears the database's name: so
    `billing.payments` means the same in dbt and in psql. A reverse model belongs to the mirror.
#}
{% macro generate_schema_name(custom_schema_name, node) %}
    {% do return(pgsplit.monolith_schema() if pgsplit.is_reverse(node) else custom_schema_name or target.schema) %}
{% endmacro %}
