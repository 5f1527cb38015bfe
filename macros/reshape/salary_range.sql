{#
    salary_range(rate_range): a rate in free text as a document of raw, min, max and unit.

    | input                    | call                        | output: min, max, unit |
    |--------------------------|-----------------------------|------------------------|
    | $10-$20/hr               | salary_range('"rateRange"') | 10, 20, hr             |
    | $1,000 - $2,500/month    |                             | 1000, 2500, month      |
    | €30–€45 per hour         |                             | 30, 45, hour           |
    | 15 USD                   |                             | 15, 15, null           |
    | negotiable, $10k, '', …  |                             | null, null, null       |

    What is not wholly understood is not read at all. Its reverse is rate_range.
    No locale has a say in these patterns, so every database reads alike. Checking first and
    capturing afterwards is many times faster than one pattern that does both.
#}
{% macro salary_range(rate_range) -%}
    {%- set space -%} [ \t\r\n\u00a0]* {%- endset -%}
    {%- set currency -%} (?:[A-Z]{0,3}[$€£¥₹₱]|USD|EUR|GBP|AUD|CAD|INR|PHP)? {%- endset -%}
    {%- set number -%} (?:[0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,12})(?:[.][0-9]{1,4})? {%- endset -%}
    {%- set amount = currency ~ space ~ number ~ space ~ currency ~ space -%}
    {%- set unit -%} [A-Za-z\u00a1-\U0010ffff]+ {%- endset -%}
    (
        select jsonb_build_object(
            'raw', {{ rate_range }},
            'min', replace(substring(rate from '[0-9][0-9,.]*'), ',', '')::numeric,
            'max', replace(substring(rate from '([0-9][0-9,.]*)[^0-9]*$'), ',', '')::numeric,
            'unit', substring(rate from '(?:/|per){{ space ~ '(' ~ unit ~ ')' }}')
        )
        from (
            select case
                when {{ rate_range }} ~ (
                    '^{{ space ~ amount }}'
                    || '(?:(?:-|–|—|to){{ space ~ amount }})?'
                    || '(?:(?:/|per){{ space ~ unit ~ space }})?$'
                ) then {{ rate_range }}
            end as rate
        ) as understood
    )
{%- endmacro %}
