{#
    A table bears its model's name; a reverse model, monolith_TABLE, that of the mirror's table.
#}
{% macro generate_alias_name(custom_alias_name=none, node=none) %}
    {% do return(custom_alias_name or (node.name | replace('monolith_', '', 1) if is_reverse(node) else node.name)) %}
{% endmacro %}
