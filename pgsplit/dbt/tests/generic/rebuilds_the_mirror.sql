{#
    rebuilds_the_mirror: reverse replication is exact. What a reverse model yields from the service's
    tables is what the mirror holds of the monolith's table, byte for byte.

    | argument | meaning                                                        | default |
    |----------|----------------------------------------------------------------|---------|
    | most     | how many rows are compared; of a larger table so many at random | 20000   |

    Rows that are missing or too many are found in a table of any size. Before a switch all rows are
    compared.

    Returns the ids of rows that differ, with how; see split.way_back_sample_differs().
#}
{% test rebuilds_the_mirror(model, most=20000) %}
    select * from split.way_back_sample_differs({{ dbt.string_literal(model.identifier) }}, {{ most }})
{% endtest %}
