{#
    prepare_service_database(): what a service database needs before the first model is built.

    Runs at the start of every dbt command that builds. Idempotent and atomic. Two dbt processes take
    turns by the sync lock, since two `create or replace` of one function fail. It keeps a sync out, too,
    which would otherwise wait for what is locked here while this waits for it.

    The runner has made what is the same in every project: see pgsplit/state/sql/service.sql. Here
    comes what follows from the models:

    | object                         | what for                                              |
    |--------------------------------|-------------------------------------------------------|
    | split.capture_SCHEMA_TABLE()   | records changes, of the mirror and of the service     |
    | triggers, indexes of the mirror| call them, and find the rows that a change touches    |
    | split.prepare_switch()         | makes the service's own tables record their changes   |
#}
{% macro prepare_service_database() %}
    {% if execute and flags.WHICH in ['build', 'run', 'test', 'seed'] %}
        {{ pgsplit.require_session() }}
        {{ pgsplit.require_no_strangers() }}
        {% if pgsplit.is_monolith() %}
            create schema if not exists split;
        {% else %}
            {{ pgsplit.require_state_version() }}
            {{ pgsplit.become_owner('split') }}
            lock table split.turn in exclusive mode;
            {{ pgsplit.forget_dropped_tables() }}
            {{ pgsplit.capture_mirror() }}
            {{ pgsplit.capture_service() }}
        {% endif %}
    {% endif %}
{% endmacro %}


{# A table that an operator has dropped is re-created by this run. #}
{% macro forget_dropped_tables() %}
    select split.recognize_tables();
    delete from split.service_tables as tables
    where not exists (select from pg_catalog.pg_class as class where class.oid = tables.table_oid);
{% endmacro %}
