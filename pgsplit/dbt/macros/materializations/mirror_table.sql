{#
    mirror_table: what reverse replication sends to the monolith. From the switch on, a table of the
    mirror, which landing has made, is kept equal to what the model yields from the service's tables.

    Writes no rows. It re-creates split.sync_MODEL(), which split.sync() calls once the service is
    switched, for the rows that the service has changed. Columns and key are those of
    models/_sources.yml, so the model's yml only says what it follows; see followed_tables(). Atomic.
    If the model has changed, the next sync of a switched service compares all rows.

    Once the service is completed, only what others share is kept, by split.share_MODEL(), and the rest
    of the service's tables is its team's. Then a build asserts that others still get what they share,
    and re-creates that function only if the model, or what others share, has changed.
#}
{% materialization mirror_table, adapter='postgres' %}
    {% set relation = this.incorporate(type='table') %}
    {% set is_completed = pgsplit.is_completed() %}
    {% set shared = pgsplit.shared_by(relation.identifier) %}

    {% if is_completed and pgsplit.is_shared_as_before(relation, sql, shared) %}
        {% do pgsplit.assert_others_get_what_they_share(relation) %}
        {{ pgsplit.leave_alone(model.name ~ (' gives others what they share' if shared else ' serves nobody any more')) }}
        {% do return({'relations': [relation]}) %}
    {% endif %}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}

    {% if load_cached_relation(this) is none %}
        {% do exceptions.raise_compiler_error(
            relation ~ " is not there, so " ~ model.name ~ " has nothing to rebuild. Nothing was changed."
            ~ " Fix: runner.py land " ~ target.name
        ) %}
    {% endif %}
    {% if not is_completed %}
        {% set columns = pgsplit.sync_shape(relation).columns %}
        {% set yielded = get_column_schema_from_query(get_empty_subquery_sql(sql)) | map(attribute='name') | list %}
        {% if yielded != columns %}
            {% do exceptions.raise_compiler_error(
                model.name ~ " yields other columns than models/_sources.yml lists for " ~ relation.identifier ~ ": "
                ~ yielded | join(', ') ~ " where " ~ columns | join(', ') ~ " is expected."
                ~ " Fix " ~ model.original_file_path
            ) %}
        {% endif %}
    {% endif %}

    {% call statement('owner') %}{{ pgsplit.become_owner(relation.schema) }}{% endcall %}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% call statement('main') %}
        {% if not is_completed %}
            {{ pgsplit.service_table_sync_function(relation, sql) }}
        {% endif %}
        insert into split.mirror_tables (table_name, definition, follows, followed)
        values (
            {{ dbt.string_literal(relation.identifier) }}, {{ pgsplit.service_table_definition(sql) }},
            {{ pgsplit.service_table_follows() }}, {{ pgsplit.service_table_followed() }}
        )
        on conflict (table_name) do update
        set
            definition = excluded.definition,
            follows = excluded.follows,
            followed = excluded.followed,
            is_stale = mirror_tables.is_stale or (
                mirror_tables.definition <> excluded.definition
                and (select switched_at is not null from split.service)
            );
        select split.capture_own_tables();
    {% endcall %}
    {{ pgsplit.share(relation, sql, shared, is_completed) }}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {% do return({'relations': [relation]}) %}
{% endmaterialization %}
