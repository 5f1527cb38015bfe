{#
    Columns of a relation with their full types: `text[]`, `jsonb[]`, `timestamp(3) without time zone`.

    dbt-postgres reads information_schema, which calls every array `ARRAY`; unit-test
    fixtures with arrays can't be cast to that.
#}
{% macro postgres__get_columns_in_relation(relation) %}
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
