{#
    accounts_for: a table has as many rows as the monolith table that it comes from.

    | argument | meaning                                               | default |
    |----------|-------------------------------------------------------|---------|
    | mirror   | the monolith table, or its mirror, that is counted    |         |
    | id_column| the column that holds the monolith row's id           | id      |
    | also     | tables whose rows count too, where several share them | none    |
    | condition| which of the stored rows count                        | all     |

    Rows that have changed since the last sync count on neither side: in the mirror, or after a switch
    in the service's own tables. Nor does any row of a completed service's own: the table is its source,
    and its mirror has what others share.

    Returns one row with both counts if they differ; fails with the number of rows of difference.
#}
{% test accounts_for(model, mirror, id_column='id', also=[], condition='true') %}
    {{ config(fail_calc='coalesce(sum(abs(stored - expected)), 0)') }}

    {% set tables = [model] + also %}
    with

    mirrored as (
        select count(*) as expected from {{ source(pgsplit.monolith_source(), mirror) }} as mirror
        where
            not {{ pgsplit.is_pending(mirror, 'mirror.id') }}
            {% for relation in tables %}
                and not {{ pgsplit.is_written(relation, id_column, 'mirror.id') }}
            {% endfor %}
    ),

    counts as (
        {% for relation in tables %}
            {% set key = 'stored.' ~ adapter.quote(id_column) %}
            select count(*) as held from {{ relation }} as stored
            where
                {{ condition }}
                and not {{ pgsplit.is_pending(mirror, key) }}
                and not {{ pgsplit.is_written(relation, id_column, key) }}
            {{- '\n            union all' if not loop.last }}
        {% endfor %}
    ),

    counted as (
        select
            mirrored.expected,
            (select sum(held) from counts) as stored
        from mirrored
    )

    select * from counted
    where
        stored <> expected
        and not {{ pgsplit.is_mirror_of_completed(mirror) }}
{% endtest %}
