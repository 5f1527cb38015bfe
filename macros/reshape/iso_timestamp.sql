{#
    iso_timestamp(value): the UTC time in a JSON string, if it is written as JavaScript writes it.

    | input                         | call                       | output                  |
    |-------------------------------|----------------------------|-------------------------|
    | "2025-03-01T10:00:00.120Z"    | iso_timestamp("data -> 't'") | 2025-03-01 10:00:00.120 |
    | "2025-03-01T10:00:00Z"        |                            | null                    |
    | "2025-02-30T10:00:00.120Z"    |                            | null                    |
    | "yesterday", 1740823200000    |                            | null                    |

    Never raises an error. `limit 1` has it parsed once. Its reverse is iso_text; what that would not
    write the same has to stay in the document.
#}
{% macro iso_timestamp(value) -%}
    {%- set parsed -%}
        jsonb_path_query_first(
            {{ value }}, '$.datetime("YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"")', silent => true
        )
    {%- endset -%}
    (
        select parsed_at from (select ({{ parsed }} #>> '{}')::timestamp(3) as parsed_at limit 1) as parsed
        where {{ iso_text('parsed_at') }} = {{ value }} #>> '{}'
    )
{%- endmacro %}
