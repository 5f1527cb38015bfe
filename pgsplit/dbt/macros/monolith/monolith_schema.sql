{#
    monolith_schema(): the schema of the monolith's tables, and of their mirror in each service database.

    | project             | vars                            | output     |
    |---------------------|---------------------------------|------------|
    | name: shop          |                                 | shop       |
    | name: shop          | {monolith_schema: public}          | public     |
#}
{% macro monolith_schema() -%}
    {%- do return(var('monolith_schema', project_name)) -%}
{%- endmacro %}
