{#
    monolith_source(): the name of the source in models/_sources.yml, which is the project's.
#}
{% macro monolith_source() -%}
    {%- do return(project_name) -%}
{%- endmacro %}
