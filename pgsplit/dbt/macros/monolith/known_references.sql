{#
    known_references(): what refers to what without a key that says so, as rows of a `values` list.

    From `references` of a table in models/_sources.yml.

    | table_name | column_name | target_table | target_column | value                      | condition           |
    |------------|-------------|--------------|---------------|----------------------------|---------------------|
    | payments   | receiverId  | users        | id            | "receiverId"               | true                |
    | reviews    | targetId    | companies    | id            | "targetId"                 | "targetType" = 'company' |
#}
{% macro known_references() -%}
    {%- set rows = [] -%}
    {%- if execute -%}
        {%- for table in pgsplit.monolith_tables() -%}
            {%- for one in table.config.meta.get('references', []) -%}
                {%- do rows.append((
                    table.name,
                    one.column,
                    one.table,
                    one.get('field', 'id'),
                    one.get('value', adapter.quote(one.column)),
                    one.get('when', 'true'),
                )) -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endif -%}
    {{ pgsplit.values_list(rows or [('', '', '', '', '', '')]) }}
{%- endmacro %}
