{#
    reverse_columns(mirror, others): the monolith's columns of a table, in the order of
    models/_sources.yml, from columns of the same names in snake_case.

    | argument | meaning                                                                  | default |
    |----------|--------------------------------------------------------------------------|---------|
    | mirror   | the monolith's table                                                     |         |
    | others   | by the monolith's name, the SQL of the columns that are not only renamed | none    |

    | call                                                 | output                                      |
    |------------------------------------------------------|---------------------------------------------|
    | reverse_columns('match_votes')                       | "id", "job_posting_id" as "jobPostingId", … |
    | reverse_columns('payments', {'userId': 'sender_id'}) | "id", …, sender_id as "userId", …           |
#}
{% macro reverse_columns(mirror, others={}) %}
    {%- for name in pgsplit._columns_of_mirror(mirror) -%}
        {%- set renamed = adapter.quote(modules.re.sub('([A-Z])', '_\\1', name) | lower) -%}
        {{ others.get(name, renamed) }}
        {%- if others.get(name, renamed) != adapter.quote(name) %} as {{ adapter.quote(name) }}{% endif %}
        {{- ',\n        ' if not loop.last }}
    {%- endfor -%}
{% endmacro %}


{# A unit test's graph has no sources; there the mirror itself says which columns it has. #}
{% macro _columns_of_mirror(mirror) %}
    {% for table in graph.get('sources', {}).values() if table.name == mirror %}
        {% do return(table.columns.keys() | list) %}
    {% endfor %}
    {% set relation = api.Relation.create(schema=pgsplit.monolith_schema(), identifier=mirror) %}
    {% do return(adapter.get_columns_in_relation(relation) | map(attribute='name') | list if execute else []) %}
{% endmacro %}
