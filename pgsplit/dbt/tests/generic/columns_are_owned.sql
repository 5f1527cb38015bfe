{#
    columns_are_owned: the built table has just the columns that column_ownership gives it.

    So no service column comes from nowhere, and none that comes from the monolith is missing. It finds
    nothing in a table that belongs to the service's team; see belongs_to_team().
#}
{% test columns_are_owned(model) %}
    {{ config(tags=['ownership']) }}

    with

    built as (
        select attname::text as service_column
        from pg_catalog.pg_attribute
        where
            attrelid = {{ dbt.string_literal(model.include(database=false)) }}::regclass
            and attnum > 0
            and not attisdropped
            -- From the switch on, the service may have columns of its own.
            and (
                (select switched_at is null from split.service)
                or attname in (
                    select name from split.made_objects
                    where kind = 'column' and table_name = {{ dbt.string_literal(model.identifier) }}
                )
            )
    ),

    owned as (
        select distinct service_column
        from {{ ref('column_ownership') }}
        where
            service = {{ dbt.string_literal(target.name) }}
            and service_table = {{ dbt.string_literal(model.identifier) }}
    ),

    compared as (
        select
            coalesce(built.service_column, owned.service_column) as service_column,
            case
                when owned.service_column is null then 'column_ownership gives it no monolith column'
                else 'the built table has no such column'
            end as problem
        from built
        full join owned using (service_column)
        where
            (built.service_column is null or owned.service_column is null)
            and not {{ pgsplit.is_table_of_team(model.identifier) }}
    )

    select * from compared
{% endtest %}
