{#
    is_monolith(): whether dbt's target is the monolith, which bears the project's name.
#}
{% macro is_monolith() -%}
    {%- do return(target.name == project_name) -%}
{%- endmacro %}
