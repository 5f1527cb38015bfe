{#
    iso_text(time): a UTC time as JavaScript writes it.

    | input                   | call                | output                   |
    |-------------------------|---------------------|--------------------------|
    | 2025-03-01 10:00:00.120 | iso_text('sent_at') | 2025-03-01T10:00:00.120Z |
    | infinity, null          |                     | null                     |

    The inverse of iso_timestamp, from the year 1 on.
#}
{% macro iso_text(time) -%}
    to_char({{ time }}, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
{%- endmacro %}
