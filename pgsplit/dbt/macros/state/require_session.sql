{#
    require_session(): stops dbt unless its sessions have the settings of the engine's own.

    They are in the profile, under `search_path`. Without them, whoever may create functions in a schema
    of the search path could have them run by dbt's login, and a time-out that the database has for its
    applications could end a build. A profile can't undo transaction_timeout, which PostgreSQL 15 does
    not know; `runner.py build` adds it.
#}
{% macro require_session() %}
    {% set found = run_query(
        "select current_setting('search_path'), current_user = session_user,"
        ~ " coalesce(current_setting('transaction_timeout', true), '0')"
    ).rows[0] %}
    {% set where = target.dbname ~ " on " ~ target.host %}
    {% if found[0] | replace(' ', '') != 'pg_catalog,pg_temp' or not found[1] %}
        {% do exceptions.raise_compiler_error(
            "dbt's search path in " ~ where ~ " is " ~ found[0] ~ ", and must be pg_catalog,pg_temp. Nothing was"
            ~ " changed. Give the outputs in profiles.yml the lines `search_path` that the newest examples/shop/profiles.yml has."
        ) %}
    {% elif found[2] != '0' %}
        {% do exceptions.raise_compiler_error(
            "transaction_timeout in " ~ where ~ " is " ~ found[2] ~ ", which could end a build. Nothing was changed."
            ~ " Build with: runner.py build " ~ target.name
        ) %}
    {% endif %}
{% endmacro %}
