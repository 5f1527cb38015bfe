{#
    parity: every reference to a row that another service owns finds it.

    | argument    | meaning                                                      | default |
    |-------------|--------------------------------------------------------------|---------|
    | column_name | the referring column                                         |         |
    | owner       | the monolith table, or its mirror, that holds what it names   |         |
    | field       | the column of `owner`                                        | id      |
    | condition   | which rows refer to this owner, when the column is polymorphic| all     |
    | on_delete   | what the monolith's key did, for `runner.py reconcile`: restrict or set null | restrict |

    A deleted row of a table in the variable `tombstones` has a tombstone, which a reference may lead to.

    Returns the referring rows whose reference leads nowhere and stores them in the schema
    `audit`. Reads the mirror, which may be ahead of the service's own tables. The next test judges
    what has changed there since the last sync.
#}
{% test parity(model, column_name, owner, field='id', condition='true', on_delete='restrict') %}
    {{ config(schema='audit', store_failures=true, tags=['parity']) }}

    with

    referring as (
        select * from {{ model }}
        where {{ adapter.quote(column_name) }} is not null and {{ condition }}
    ),

    owned as (
        select {{ adapter.quote(field) }} as owned_key from {{ source(pgsplit.monolith_source(), owner) }}
        {% set kept = var('tombstones', {}).get(owner) %}
        {% if kept %}
            union all
            select id as owned_key from {{ ref(kept.model) }} where {{ kept.column }} is not null
        {% endif %}
    ),

    orphaned as (
        select referring.*
        from referring
        left join owned on referring.{{ adapter.quote(column_name) }} = owned.owned_key
        where
            owned.owned_key is null
            and not {{ pgsplit.is_pending(owner, 'referring.' ~ adapter.quote(column_name)) }}
    )

    select * from orphaned
{% endtest %}
