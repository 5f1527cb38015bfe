{#
    is_reverse(node): whether a model rebuilds a mirror table from the service's tables.

    Those stand in `models/<database>/reverse/` and are called monolith_TABLE.
#}
{% macro is_reverse(node) %}
    {% do return(node.resource_type == 'model' and 'reverse' in node.fqn) %}
{% endmacro %}
