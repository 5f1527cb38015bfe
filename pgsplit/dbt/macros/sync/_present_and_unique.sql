{# The query of the test present_and_unique. #}
{% macro _present_and_unique(model) %}
    {% set not_null = [] %}
    {% set unique = [] %}
    {% for node in graph.get('nodes', {}).values()
        if node.config.materialized == 'service_table' and node.alias == model.identifier %}
        {% for column in pgsplit.service_table_columns(node) %}
            {% do not_null.append(column.name) if column.is_not_null %}
            {% for constraint in column.constraints if constraint.type in ['primary_key', 'unique'] %}
                {% do unique.append([column.name]) %}
            {% endfor %}
        {% endfor %}
        {% for constraint in node.constraints if constraint.type in ['primary_key', 'unique'] %}
            {% do unique.append(constraint.columns) %}
        {% endfor %}
    {% endfor %}

    with

    absent as (
        select
            stored.*,
            wrong.problem
        from {{ model }} as stored
        cross join lateral (
            values
            {% for name in not_null %}
                ({{ dbt.string_literal(name ~ ' is null') }}, stored.{{ adapter.quote(name) }} is null){{ ',' if not loop.last }}
            {% endfor %}
        ) as wrong (problem, is_so)
        where
            wrong.is_so
            and {{ pgsplit.is_not_guaranteed(model, 'not_null', not_null) }}
    ),

    {% for names in unique %}
        shared_{{ loop.index }} as (
            select
                stored.*,
                {{ dbt.string_literal(names | join(', ') ~ ' is not unique') }} as problem
            from {{ model }} as stored
            where
                ({{ pgsplit.quoted(names) }}) in (
                    select {{ pgsplit.quoted(names) }} from {{ model }} group by {{ pgsplit.quoted(names) }} having count(*) > 1
                )
                and {{ pgsplit.is_not_guaranteed(model, 'unique', names) }}
        ),
    {% endfor %}

    broken as (
        select * from absent
        {% for names in unique %}
            union all
            select * from shared_{{ loop.index }}
        {% endfor %}
    )

    select * from broken
{% endmacro %}
