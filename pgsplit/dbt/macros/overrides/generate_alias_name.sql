{#
    A table bears its model's name; a reverse model, monolith_TABLE, that of the mirror's table. Rows that
    fail one of this package's tests are kept under the test's name without the package's.

    | node                                     | output                           |
    |------------------------------------------|----------------------------------|
    | payments                                 | payments                         |
    | monolith_payments, in a folder `reverse` | payments                         |
    | pgsplit_parity_payments_job_id__jobs     | parity_payments_job_id__jobs     |
#}
{% macro generate_alias_name(custom_alias_name=none, node=none) %}
    {% if node.resource_type == 'test' %}
        {% do return((custom_alias_name or node.name) | replace('pgsplit_', '', 1)) %}
    {% endif %}
    {% do return(custom_alias_name or (node.name | replace('monolith_', '', 1) if pgsplit.is_reverse(node) else node.name)) %}
{% endmacro %}
