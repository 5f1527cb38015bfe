{#
    service_table: a table that a service owns, kept equal to the model's SQL and never replaced.

    | step         | when            | what happens                                                  |
    |--------------|-----------------|---------------------------------------------------------------|
    | create       | first build     | table, rows, then keys, checks and indexes, in one transaction|
    | reconcile    | every later one | rows that differ are upserted, rows that vanished are deleted |

    It never drops, truncates or swaps a table, `--full-refresh` or not, and it refuses a table
    that it did not make or whose columns or constraints have changed since it did.

    The model's yml says everything else: contract, constraints, `indexes`, and per column
    `config.meta.default`. Its SQL reads the mirror (and ephemeral models) only, so the same
    compiled SQL also runs on the monolith.
#}
{% materialization service_table, adapter='postgres' %}
    {% set existing = load_cached_relation(this) %}
    {% set relation = this.incorporate(type='table') %}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% call statement('owner') %}{{ become_owner(schema) }}{% endcall %}

    {% if flags.EMPTY %}
        {% do exceptions.raise_compiler_error("--empty would delete every row of " ~ this.identifier ~ ". Leave it out.") %}
    {% endif %}
    {% do get_assert_columns_equivalent(sql) %}
    {% if existing is none %}
        {% call statement('main') %}
            {{ service_table_create(relation, sql) }}
        {% endcall %}
        {% do persist_docs(relation, model) %}
    {% else %}
        {% do assert_service_table_is_ours(relation) %}
        {% call statement('main') %}
            {{ service_table_reconcile(relation, sql) }}
        {% endcall %}
    {% endif %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {% do return({'relations': [relation]}) %}
{% endmaterialization %}
