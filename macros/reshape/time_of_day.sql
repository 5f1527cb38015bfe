{#
    time_of_day(moment): the time of a timestamp, whose date stands in a column of its own.

    | input                   | call                       | output       |
    |-------------------------|----------------------------|--------------|
    | 2025-03-01 10:00:00.120 | time_of_day('"startDate"') | 10:00:00.120 |
    | infinity, null          |                            | 00:00:00     |

    Its reverse is `date + time`, which is null where the date is, and infinite likewise.
#}
{% macro time_of_day(moment) -%}
    coalesce({{ moment }}::time(3), time '00:00')
{%- endmacro %}
