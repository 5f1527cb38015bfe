{#
    is_pending(mirror, key): whether a row of a mirror has changed since the last split.sync().

    | argument | meaning                                  | example          |
    |----------|------------------------------------------|------------------|
    | mirror   | the mirror table                         | users            |
    | key      | an expression that gives the row's id    | payments.sender_id |

    For tests that hold a service's tables against the mirror while it follows a living monolith:
    what has not been carried over yet can't be judged yet, and the next test will.
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
