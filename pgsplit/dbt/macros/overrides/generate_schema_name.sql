{#
    A node's schema is what it asks for, else the target's, which bears the database's name:
    `payments_db.payments` means the same in dbt, in psql and in the customer's documents. What a
    reverse model rebuilds is in the mirror.
#}
{% macro generate_schema_name(custom_schema_name, node) %}
    {% do return(pgsplit.monolith_schema() if pgsplit.is_reverse(node) else custom_schema_name or target.schema) %}
{% endmacro %}
