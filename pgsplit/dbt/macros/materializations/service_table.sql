{#
    service_table: a table that a service owns, kept equal to the model's SQL and never replaced.

    | step    | when                                     | what happens                                     |
    |---------|------------------------------------------|--------------------------------------------------|
    | create  | first build                              | table, rows, then keys, checks and indexes       |
    | follow  | every build                              | re-creates split.sync_TABLE() for split.sync()   |
    | compare | the SQL has changed, or `--full-refresh` | upserts rows that differ, deletes rows that vanished |

    Each step is atomic. From the service's completion on, a table of its own is its team's: it is left
    alone, and the log says so; see belongs_to_team(). It never drops, truncates or swaps a table, and it refuses a table that it did
    not make or whose columns or constraints have changed since. Once the service writes the table
    itself it never compares it, which would undo what the service has written: a model that has changed
    is taken up if the table has that shape already; see take_up().

    The model's yml says everything else: contract, constraints, `indexes`, per column
    `config.meta.default` and `config.meta.kind`, see service_table_columns(), and for the table

    | config.meta    | meaning                                                              |
    |----------------|----------------------------------------------------------------------|
    | follows        | which changes of the mirror touch which rows; see followed_tables()   |
    | tombstone      | a column that gets the time when a row vanishes, instead of a delete  |
    | owned_rows     | which rows are the service's once it is switched; see owned_rows()    |
    | events         | an inbox of what happens to the rows; see event_inbox()               |
    | read_through   | a function that asks the owner for missing rows; see read_through()   |
    | mirror_indexes | what finds the mirror's rows for a key: columns, or macros, by mirror |

    Its SQL only reads the mirror and ephemeral models, so the same compiled SQL also runs on the
    monolith. Each transaction has one snapshot. While the mirror follows the monolith, the other
    tables are first synced to that snapshot, so that parents and children agree.
#}
{% materialization service_table, adapter='postgres' %}
    {% if pgsplit.belongs_to_team(model) %}
        {{ pgsplit.leave_alone(this.schema ~ "." ~ this.identifier ~ " belongs to the service's team") }}
        {% do return({'relations': [this]}) %}
    {% endif %}
    {% set existing = load_cached_relation(this) %}
    {% set relation = this.incorporate(type='table') %}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}

    {% if flags.EMPTY %}
        {% do exceptions.raise_compiler_error("--empty would delete every row of " ~ this.identifier ~ ". Leave it out.") %}
    {% endif %}
    {% do get_assert_columns_equivalent(sql) %}
    {% set made = pgsplit.service_table_made(relation, sql) %}
    {% set is_written = made.switched_at is not none and pgsplit.owned_rows(model) == 'true' %}
    {% set is_taken_up = existing is not none and made.is_ours and is_written
        and (made.is_other_definition or made.structure != pgsplit.service_table_structure()) %}
    {% if existing is not none and is_written and should_full_refresh() %}
        {% do exceptions.raise_compiler_error(
            this.schema ~ "." ~ this.identifier ~ " is written by the service since " ~ made.switched_at ~ ", and"
            ~ " --full-refresh was given: building it would undo what the service has written. Nothing was changed."
            ~ " Leave --full-refresh out."
        ) %}
    {% elif is_taken_up %}
        {% do pgsplit.assert_table_has_shape(relation, sql, made) %}
    {% elif existing is not none %}
        {% do pgsplit.assert_service_table_is_ours(relation, made) %}
    {% endif %}
    {% set is_compared = existing is not none and not is_taken_up and (made.is_other_definition or should_full_refresh()) %}

    {% if existing is none or is_compared or is_taken_up %}
        {# dbt's queries so far have taken a snapshot, and the lock has to come before one. #}
        {% call statement('turn') %}
            commit;
            begin isolation level repeatable read;
            lock table split.turn in {{ 'exclusive' if is_compared or is_taken_up or made.is_following else 'share' }} mode
        {% endcall %}
    {% endif %}
    {% call statement('owner') %}{{ pgsplit.become_owner(schema) }}{% endcall %}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% if existing is none %}
        {% if made.is_following %}
            {% call statement('sync') %}select * from split.sync(){% endcall %}
        {% endif %}
        {% call statement('main') %}
            {{ pgsplit.service_table_create(relation, sql) }}
        {% endcall %}
        {% call statement('follow') %}
            {{ pgsplit.service_table_sync_function(relation, sql) }}
            {{ pgsplit.service_table_record(relation, sql, is_stale=false) }}
            select split.note_made({{ dbt.string_literal(relation.identifier) }});
        {% endcall %}
        {% do persist_docs(relation, model) %}
    {% else %}
        {% call statement('main') %}
            {{ pgsplit.service_table_sync_function(relation, sql) }}
            {% if is_compared %}
                {{ pgsplit.service_table_record(relation, sql, is_stale=true) }}
                select * from split.sync();
            {% elif is_taken_up %}
                {{ pgsplit.service_table_record(relation, sql, is_stale=false) }}
                {{ pgsplit.take_up(relation) }}
            {% else %}
                update split.service_tables set followed = {{ pgsplit.service_table_followed() }}
                where table_name = {{ dbt.string_literal(relation.identifier) }};
            {% endif %}
        {% endcall %}
    {% endif %}
    {% if model.config.meta.events %}
        {% call statement('events') %}{{ pgsplit.event_inbox(this) }}{% endcall %}
    {% endif %}
    {% if model.config.meta.read_through %}
        {% call statement('read_through') %}{{ pgsplit.read_through(this, sql) }}{% endcall %}
    {% endif %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {% do return({'relations': [relation]}) %}
{% endmaterialization %}
