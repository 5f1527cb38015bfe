{#
    rebuilds_the_mirror: reverse replication is exact. What a reverse model yields from the service's
    tables is what the mirror holds of the monolith's table, byte for byte.

    Returns the ids of rows that differ, with how; see split.way_back_differs().
#}
{% test rebuilds_the_mirror(model) %}
    select * from split.way_back_differs({{ dbt.string_literal(model.identifier) }})
{% endtest %}
