{#
    dbt makes no schema in a service database: `runner.py provision` has made them all.

    So a schema that is missing means another database than the one that was provisioned for this
    target, and dbt stops before it makes anything there.
#}
{% macro postgres__create_schema(relation) %}
    {% if pgsplit.is_monolith() %}
        {% call statement('create_schema') %}
            create schema if not exists {{ adapter.quote(relation.schema) }}
        {% endcall %}
    {% else %}
        {% do exceptions.raise_compiler_error(
            "The database " ~ target.dbname ~ " on " ~ target.host ~ " was not provisioned for " ~ target.name
            ~ ": it has no schema " ~ relation.schema ~ ". Nothing was changed. Check " ~ target.name | upper
            ~ "_URL, or: runner.py provision " ~ target.name
        ) %}
    {% endif %}
{% endmacro %}
