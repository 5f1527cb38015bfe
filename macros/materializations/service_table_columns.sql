{#
    service_table_columns(alias): the model's columns, quoted and in the contract's order.

    | call                              | output                            |
    |-----------------------------------|-----------------------------------|
    | service_table_columns()           | "id", "sender_id", …              |
    | service_table_columns('expected') | expected."id", expected."sender_id", … |
#}
{% macro service_table_columns(alias='') %}
    {%- for name in model.columns -%}
        {{ alias ~ '.' if alias }}{{ adapter.quote(name) }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{% endmacro %}
