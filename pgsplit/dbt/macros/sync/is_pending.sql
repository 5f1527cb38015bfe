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
    {{ pgsplit.is_changed(pgsplit.monolith_schema() ~ '.' ~ mirror, 'id', key) }}
{%- endmacro %}


{#
    is_written(relation, column, key): whether a switched service has written a row since the last
    split.sync(). The same for the service's own tables; `column` is the one that `key` is a value of.
#}
{% macro is_written(relation, column, key) -%}
    {{ pgsplit.is_changed(relation.schema ~ '.' ~ relation.identifier, column, key) }}
{%- endmacro %}


{#
    is_changed(table, column, key): whether split.changes has a row, or the whole table.
#}
{% macro is_changed(table, column, key) -%}
    exists (
        select from split.changes
        where
            changes.changed_table = '{{ table }}'
            and changes.key_name = '{{ column }}'
            and (changes.key = {{ key }} or changes.key is null)
    )
{%- endmacro %}
