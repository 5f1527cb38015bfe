{#
    _sync_find_difference(relation, sql, sync): the part of a sync function that finds rows that differ.

    The model's own SQL, restricted to the keys, is compared with the table by binary image, so 1.0 and
    1.00 differ and an equal row is not written to. Once the service is switched, only rows that are
    not its own are looked at. A row is in the way if its unique values change: it is deleted and comes
    back, so that two rows may swap them.
#}
{% macro _sync_find_difference(relation, sql, sync) %}
    {% set key, tombstone = sync.key, sync.tombstone %}
    create temporary table if not exists {{ sync.difference }} on commit delete rows as
    {{ sync.shape }}
    with no data;
    delete from {{ sync.difference }};

    insert into {{ sync.difference }}
    with expected as (
        select * from ({{ sql }}) as model
        where (_whole or {{ sync.is_touched }}){{ sync.is_followed }}
    ),

    actual as (
        select * from {{ relation }}
        where
            (_whole or {{ key ~ ' = any(_touched)' if sync.follows_other_columns else sync.is_touched }})
            {{- sync.is_followed }}
    )

    select
        coalesce(expected.{{ key }}, actual.{{ key }}),
        expected.{{ key }} is null,
        actual.{{ key }} is not null
        and (
            {{ 'false' if tombstone else 'expected.' ~ key ~ ' is null' }}
            {% for name in sync.unique %}
                or actual.{{ adapter.quote(name) }} is distinct from expected.{{ adapter.quote(name) }}
            {% endfor %}
        ),
        actual.{{ key }} is null,
        {{ pgsplit.quoted(sync.columns, 'expected') }}
    from expected
    full join actual on expected.{{ key }} = actual.{{ key }}
    where
        record_image_ne(
            row({{ pgsplit.quoted(sync.columns, 'actual') }}),
            row({{ pgsplit.quoted(sync.columns, 'expected') }})
        )
        {%- if tombstone %}
            and (expected.{{ key }} is not null or actual.{{ adapter.quote(tombstone) }} is null)
        {%- endif %};
{% endmacro %}
