{#
    Columns of a relation with their full types: `text[]`, `jsonb[]`, `timestamp(3) without time zone`.

    dbt-postgres reads information_schema, which calls every array `ARRAY`; unit-test
    fixtures with arrays can't be cast to that.

    For a completed service's own tables, which its team has changed, they are those of the model: unit
    tests go on testing it.
#}
{% macro postgres__get_columns_in_relation(relation) %}
    {% set as_made %}
        select name, regexp_replace(definition, '( generated| identity| not null)+$', ''), null, null, null
        from split.made_objects
        where kind = 'column' and table_name = {{ dbt.string_literal(relation.identifier) }}
    {% endset %}
    {% if relation.schema == target.schema and pgsplit.is_table_of_team(relation.identifier) %}
        {% do return(sql_convert_columns_in_relation(run_query(as_made))) %}
    {% endif %}
    {% set columns %}
        select
            attribute.attname,
            format_type(attribute.atttypid, attribute.atttypmod),
            null,
            null,
            null
        from pg_catalog.pg_attribute as attribute
        inner join pg_catalog.pg_class as class on class.oid = attribute.attrelid
        inner join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
        where
            class.relname = {{ dbt.string_literal(relation.identifier) }}
            and {% if relation.schema -%}
                namespace.nspname = {{ dbt.string_literal(relation.schema) }}
            {%- else -%}
                pg_catalog.pg_table_is_visible(class.oid)
            {%- endif %}
            and attribute.attnum > 0
            and not attribute.attisdropped
        order by attribute.attnum
    {% endset %}
    {% do return(sql_convert_columns_in_relation(run_query(columns))) %}
{% endmacro %}
