{#
    service_table_record(relation, sql, is_stale): records what a table was made of.

    | argument | meaning                                                                        |
    |----------|--------------------------------------------------------------------------------|
    | sql      | the model's compiled SQL; it gives the same rows on the mirror and on the monolith |
    | is_stale | the next split.sync() is to compare all rows                                   |
#}
{% macro service_table_record(relation, sql, is_stale) %}
    insert into split.service_tables (table_name, table_oid, structure, definition, follows, owned_rows, tombstone, is_stale, followed)
    values (
        {{ dbt.string_literal(relation.identifier) }},
        {{ dbt.string_literal(relation) }}::regclass,
        '{{ pgsplit.service_table_structure() }}',
        {{ pgsplit.service_table_definition(sql) }},
        {{ pgsplit.service_table_follows() }},
        {{ dbt.string_literal(dbt.escape_single_quotes(pgsplit.owned_rows(model))) }},
        {{ dbt.string_literal(model.config.meta.tombstone) if model.config.meta.tombstone is defined else 'null' }},
        {{ is_stale }},
        {{ pgsplit.service_table_followed() }}
    )
    on conflict (table_name) do update
    set
        table_oid = excluded.table_oid,
        structure = excluded.structure,
        definition = excluded.definition,
        follows = excluded.follows,
        owned_rows = excluded.owned_rows,
        tombstone = excluded.tombstone,
        is_stale = excluded.is_stale,
        followed = excluded.followed,
        built_at = now();
{% endmacro %}


{# The compiled SQL, and the tables that the model follows, as literals. #}
{% macro service_table_definition(sql) %}
    {%- do return(dbt.string_literal(dbt.escape_single_quotes(sql | trim))) -%}
{% endmacro %}


{% macro service_table_follows() %}
    {%- do return("'{" ~ pgsplit.followed_tables(model) | map(attribute='table') | join(',') ~ "}'::text[]") -%}
{% endmacro %}


{# Which keys of which tables touch the model's rows, and by which column, as a literal. #}
{% macro service_table_followed() %}
    {%- do return(dbt.string_literal(dbt.escape_single_quotes(tojson(pgsplit.followed_tables(model)))) ~ '::jsonb') -%}
{% endmacro %}
