{#
    expected_columns(): the monolith's columns, as rows of a `values` list.

    | table_name | column_name | data_type |
    |------------|-------------|-----------|
    | badges     | vaProfileId | text      |
#}
{% macro expected_columns() -%}
    {%- set rows = [] -%}
    {%- if execute -%}
        {%- for table in pgsplit.monolith_tables() -%}
            {%- for column in table.columns.values() -%}
                {%- do rows.append((table.name, column.name, column.data_type)) -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endif -%}
    {{ pgsplit.values_list(rows or [('', '', '')]) }}
{%- endmacro %}
