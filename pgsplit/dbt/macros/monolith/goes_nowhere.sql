{#
    goes_nowhere(): the lines of seeds/column_ownership.csv without a service, for an analysis.

    | monolith_table | monolith_column | reason                  |
    |----------------|-----------------|-------------------------|
    | old_sessions   | *               | sessions last one day   |
    | users          | legacyToken     | nobody reads it         |

    An analysis writes nothing, so the seed may not be in the monolith yet. The runner gives these
    lines as JSON in the setting `split.goes_nowhere`; without it there are none.
#}
{% macro goes_nowhere() -%}
    select
        monolith_table,
        monolith_column,
        reason
    from jsonb_to_recordset(
        coalesce(nullif(current_setting('split.goes_nowhere', true), ''), '[]')::jsonb
    ) as lines (monolith_table text, monolith_column text, reason text)
{%- endmacro %}
