{#
    rate_range(salary_range): a document of raw, min, max and unit as a rate in free text.

    | input                                       | call                       | output       |
    |---------------------------------------------|----------------------------|--------------|
    | {"raw": "$10-$20/hr", "min": 10, "max": 99} | rate_range('salary_range') | $10-$20/hr   |
    | {"min": 10, "max": 20, "unit": "hr"}        |                            | 10-20/hr     |
    | {"min": 15, "max": 15}, {"min": 15}         |                            | 15           |
    | {}, [], null                                |                            | ''           |

    The inverse of salary_range, whose `raw` is what counts. Never null: the monolith wants a rate.
#}
{% macro rate_range(salary_range) -%}
    {%- set min = '(' ~ salary_range ~ " ->> 'min')" -%}
    {%- set max = '(' ~ salary_range ~ " ->> 'max')" -%}
    coalesce(
        {{ salary_range }} ->> 'raw',
        concat_ws(
            '/',
            nullif(concat_ws('-', {{ min }}, nullif({{ max }}, {{ min }})), ''),
            {{ salary_range }} ->> 'unit'
        )
    )
{%- endmacro %}
