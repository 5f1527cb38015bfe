{#
    passed_over(): which of the monolith's tables a split passes over, and why; for a CTE.

    | table_name         | reason                                          |
    |--------------------|-------------------------------------------------|
    | _prisma_migrations | Prisma keeps its own records in it              |
    | spatial_ref_sys    | it belongs to the extension postgis             |

    Only tables are passed over that models/_sources.yml gives to nobody. What else goes nowhere
    stands in seeds/column_ownership.csv, see goes_nowhere().
#}
{% macro passed_over() -%}
    select
        class.relname::text as table_name,
        min(tools.tool) || ' keeps its own records in it' as reason
    from pg_catalog.pg_class as class
    inner join ({{ pgsplit.tool_tables() }}) as tools (table_name, column_names, tool)
        on lower(class.relname) = tools.table_name
    where
        class.relnamespace in (
            to_regnamespace('{{ pgsplit.monolith_schema() }}')::oid,
            to_regnamespace('{{ pgsplit.monolith_schema() }}_retired')::oid
        )
        and class.relkind in ('r', 'p')
        and class.relname not in (
            select expected.table_name
            from ({{ pgsplit.expected_tables() }}) as expected (table_name, owner)
            where expected.owner <> ''
        )
        and string_to_array(tools.column_names, ', ') <@ array(
            select lower(attribute.attname)
            from pg_catalog.pg_attribute as attribute
            where
                class.oid = attribute.attrelid
                and attribute.attnum > 0
                and not attribute.attisdropped
        )
    group by class.relname

    union

    select
        class.relname::text as table_name,
        'it belongs to the extension ' || extensions.extname as reason
    from pg_catalog.pg_class as class
    inner join pg_catalog.pg_depend as belongs
        on
            class.oid = belongs.objid
            and belongs.classid = 'pg_catalog.pg_class'::regclass
            and belongs.refclassid = 'pg_catalog.pg_extension'::regclass
            and belongs.deptype = 'e'
    inner join pg_catalog.pg_extension as extensions on belongs.refobjid = extensions.oid
    where
        class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and class.relkind in ('r', 'p', 'f')
        and class.relname not in (
            select expected.table_name
            from ({{ pgsplit.expected_tables() }}) as expected (table_name, owner)
            where expected.owner <> ''
        )
{%- endmacro %}
