{#
    monolith_tables(): the monolith's tables in models/_sources.yml, as dbt's graph has them.

    A project may have other sources beside them; they are no part of the split.
#}
{% macro monolith_tables() -%}
    {%- set tables = [] -%}
    {%- if execute -%}
        {%- for source in graph.sources.values() if source.source_name == pgsplit.monolith_source() -%}
            {%- do tables.append(source) -%}
        {%- endfor -%}
    {%- endif -%}
    {%- do return(tables) -%}
{%- endmacro %}
