{#
    quoted(names, alias): columns as a list for SQL.

    | call                             | output                                 |
    |----------------------------------|----------------------------------------|
    | quoted(['id', 'sender_id'])      | "id", "sender_id"                      |
    | quoted(['id', 'sender_id'], 'expected') | expected."id", expected."sender_id" |
#}
{% macro quoted(names, alias='') %}
    {%- for name in names -%}
        {{ alias ~ '.' if alias }}{{ adapter.quote(name) }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{% endmacro %}
