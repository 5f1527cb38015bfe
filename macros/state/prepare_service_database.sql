{#
    prepare_service_database(): what dbt needs in a service database before the first model.

    Runs at the start of every dbt command that builds. Idempotent and atomic; the advisory
    lock makes two dbt processes take turns, since two `create or replace` of one function fail.
    It makes, in the schema `split`:

    | object                | what for                                                           |
    |-----------------------|--------------------------------------------------------------------|
    | split.service_tables  | the tables this project made, by oid, and their definition's checksum|
    | split.enforce()       | adds a constraint, or says which rows break it                     |
#}
{% macro prepare_service_database() %}
    {% if execute and flags.WHICH in ['build', 'run', 'test', 'seed'] %}
        select pg_advisory_xact_lock(hashtext('blytz_hire.prepare'));
        create schema if not exists split;
        {{ become_owner('split') }}

        {% if target.name != 'blytz_hire' %}
            create table if not exists split.service_tables (
                table_name text primary key,
                table_oid oid not null,
                structure text not null,
                built_at timestamptz not null default now()
            );

            comment on table split.service_tables is
            'Tables that this project made, with a checksum of their columns, keys and indexes.';

            {{ create_enforce_function() }}
        {% endif %}
    {% endif %}
{% endmacro %}
