{#
    service_table_reconcile(relation, sql): makes an existing table equal to the model's SQL.

    Rows are compared by their binary image, so 1.0 and 1.00 differ, and a row that is
    equal is not written to. A row whose unique values change is deleted and comes back, so that two
    rows may swap them. Atomic. Foreign keys wait for the commit.
#}
{% macro service_table_reconcile(relation, sql) %}
    {% set columns = model.columns.keys() | map('string') | list %}
    {% set key = service_table_key() %}
    {% set difference = adapter.quote(relation.identifier ~ '__difference') %}
    {% set claimed = [] %}
    {% for constraint in service_table_constraints(relation) if constraint.rank == 2 %}
        {% do claimed.extend(constraint.columns) %}
    {% endfor %}

    set constraints all deferred;

    create temporary table {{ difference }} on commit drop as
    with expected as (
        {{ sql }}
    )

    select
        {% for name in key %}
            coalesce(expected.{{ adapter.quote(name) }}, actual.{{ adapter.quote(name) }}) as {{ adapter.quote('key_' ~ loop.index) }},
        {% endfor %}
        expected.{{ adapter.quote(key[0]) }} is null as vanished,
        expected.*
    from expected
    full join {{ relation }} as actual
        on {% for name in key %}{{ 'and ' if not loop.first }}actual.{{ adapter.quote(name) }} = expected.{{ adapter.quote(name) }}{{ ' ' if not loop.last }}{% endfor %}
    where
        record_image_ne(row({{ service_table_columns('actual') }}), row({{ service_table_columns('expected') }}));

    delete from {{ relation }} as actual
    using {{ difference }} as difference
    where
        (
            difference.vanished
            {% for name in claimed | unique %}
                or actual.{{ adapter.quote(name) }} is distinct from difference.{{ adapter.quote(name) }}
            {% endfor %}
        )
        {% for name in key %}
            and actual.{{ adapter.quote(name) }} = difference.{{ adapter.quote('key_' ~ loop.index) }}
        {% endfor %};

    insert into {{ relation }} ({{ service_table_columns() }})
    select {{ service_table_columns() }}
    from {{ difference }}
    where not vanished
    on conflict ({% for name in key %}{{ adapter.quote(name) }}{{ ', ' if not loop.last }}{% endfor %}) do update
    set
        {% for name in columns %}
            {{ adapter.quote(name) }} = excluded.{{ adapter.quote(name) }}{{ ',' if not loop.last }}
        {% endfor %};
{% endmacro %}
