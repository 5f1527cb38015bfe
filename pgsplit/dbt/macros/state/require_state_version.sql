{#
    require_state_version(): stops dbt unless the schema `split` has the version that this package
    works with. Changes nothing: `runner.py` makes and upgrades the schema, and `runner.py build`
    does so before it starts dbt.
#}
{% macro require_state_version() %}
    {% set needed = pgsplit.state_version() %}
    {% set is_recorded = run_query("select to_regclass('split.version') is not null").rows[0][0] %}
    {% set found = run_query("select max(version) from split.version").rows[0][0] | int if is_recorded else 0 %}
    {% set said = "The schema split in " ~ target.dbname ~ " on " ~ target.host ~ " has version " ~ found
        ~ ", and this pgsplit needs version " ~ needed ~ ". Nothing was changed. " %}
    {% if found > needed %}
        {% do exceptions.raise_compiler_error(said ~ "Use a newer pgsplit: the one that has made it, or a later one.") %}
    {% elif found < needed %}
        {% do exceptions.raise_compiler_error(said ~ "Upgrade it and build: runner.py build " ~ target.name) %}
    {% endif %}
{% endmacro %}
