{#
    utc_now(): this moment in UTC, as a time without zone, which is what the monolith stores.

    | call                                    | output                       |
    |-----------------------------------------|------------------------------|
    | `config: {meta: {default: utc_now}}`    | (now() at time zone 'utc')   |
#}
{% macro utc_now() %}
    {%- do return("(now() at time zone 'utc')") -%}
{% endmacro %}
