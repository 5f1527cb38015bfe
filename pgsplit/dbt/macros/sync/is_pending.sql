{#
    is_pending(mirror, key): whether a row of a mirror has changed since the last split.sync().

    | argument | meaning                                  | example          |
    |----------|------------------------------------------|------------------|
    | mirror   | the mirror table                         | users            |
    | key      | an expression that gives the row's id    | payments.sender_id |

    For tests that compare a service's tables with the mirror while it follows a living monolith. A row
    with a change that no sync has applied can't be judged yet; the next test judges it.
#}
{% macro is_pending(mirror, key) -%}
    exists (
        select from split.changes
        where
            changes.changed_table = '{{ pgsplit.monolith_schema() }}.{{ mirror }}'
            and changes.key_name = 'id'
            and (changes.key = {{ key }} or changes.key is null)
    )
{%- endmacro %}
