{#
    values_list(rows): rows of text as a `values` list, each on a line of its own.

    | rows                       | output                          |
    |----------------------------|---------------------------------|
    | [('a', 'b'), ('it''s', '')] | values ('a', 'b'), ('it''s', '') |
#}
{% macro values_list(rows) -%}
    values
    {%- for row in rows %}
    (
        {%- for value in row -%}
            {{ dbt.string_literal(dbt.escape_single_quotes(value)) }}{{ ', ' if not loop.last }}
        {%- endfor -%}
    ){{ ',' if not loop.last }}
    {%- endfor %}
{%- endmacro %}
