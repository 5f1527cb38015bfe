{#
    owned_rows(node): which rows of a model's table the service writes itself once it is switched.

    | model                                         | output                              |
    |-----------------------------------------------|-------------------------------------|
    | one in a service's folder                     | true                                |
    | one in models/shared/                         | false                               |
    | one with `config.meta.owned_rows`             | that: a condition on the table's row |

    From the switch on, split.sync() leaves those rows alone and only syncs the others.
#}
{% macro owned_rows(node) %}
    {% do return(node.config.meta.get('owned_rows', 'false' if 'shared' in node.fqn else 'true')) %}
{% endmacro %}
