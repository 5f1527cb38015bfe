{#
    expected_tables(): the monolith's tables and who will own them ('' is nobody), as rows of a `values` list.

    | table_name | owner       |
    |------------|-------------|
    | badges     | accounts    |
    | payments   | billing     |
#}
{% macro expected_tables() -%}
    {%- set rows = [] -%}
    {%- if execute -%}
        {%- for table in pgsplit.monolith_tables() -%}
            {%- do rows.append((table.name, table.config.meta.get('owner') or '')) -%}
        {%- endfor -%}
    {%- endif -%}
    {{ pgsplit.values_list(rows or [('', '')]) }}
{%- endmacro %}
