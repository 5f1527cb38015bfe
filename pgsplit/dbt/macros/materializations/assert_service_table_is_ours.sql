{#
    assert_service_table_is_ours(relation, made): refuses a table that is not the one this project made.

    There are two cases, each with the statement that helps: there is no record of making the table,
    or the model's columns, keys or indexes have changed since then. Changes nothing.
#}
{% macro assert_service_table_is_ours(relation, made) %}
    {% set name = relation.schema ~ '.' ~ relation.identifier %}
    {% if not made.is_ours %}
        {% do exceptions.raise_compiler_error(
            name ~ " exists in " ~ target.dbname ~ ", but this project did not make it. Nothing was changed."
            ~ " Move it out of the way: alter table " ~ name ~ " rename to " ~ relation.identifier ~ "_before_split;"
        ) %}
    {% endif %}
    {% if made.structure != pgsplit.service_table_structure() %}
        {% do exceptions.raise_compiler_error(
            name ~ " in " ~ target.dbname ~ " was made on " ~ made.built_at ~ " with other columns, keys or indexes"
            ~ " than " ~ model.patch_path ~ " has now. Nothing was changed. As long as the service does not write to"
            ~ " it, re-create it, and the tables that refer to it: cascade drops their foreign keys, and no build adds them"
            ~ " again. drop table " ~ name ~ " cascade; then dbt build --target " ~ target.name
        ) %}
    {% endif %}
{% endmacro %}
