{#
    Which columns would be lost, or mean something else in a database of their own?

    Columns that nobody owns, are missing or of another type; numbers from sequences; generated
    columns; large objects; types that only the monolith has.
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with

expected as (
    select
        table_name,
        column_name,
        data_type
    from ({{ pgsplit.expected_columns() }}) as rows (table_name, column_name, data_type)
),

columns as (
    select
        class.relname,
        attribute.attrelid,
        attribute.attnum,
        attribute.attname,
        attribute.attidentity,
        attribute.attgenerated,
        class.oid::regclass::text as table_name,
        format('%s.%I', class.oid::regclass, attribute.attname) as object,
        format_type(attribute.atttypid, attribute.atttypmod) as data_type,
        -- of an array, what it is an array of
        coalesce(nullif(types.typelem, 0), types.oid) as type_oid,
        pg_get_expr(defaults.adbin, defaults.adrelid) as expression
    from pg_catalog.pg_attribute as attribute
    inner join pg_catalog.pg_class as class on attribute.attrelid = class.oid
    inner join pg_catalog.pg_type as types on attribute.atttypid = types.oid
    left join pg_catalog.pg_attrdef as defaults
        on attribute.attrelid = defaults.adrelid and attribute.attnum = defaults.adnum
    where
        class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and class.relkind in ('r', 'p', 'f')
        and not class.relispartition
        and attribute.attnum > 0
        and not attribute.attisdropped
),

own_types as (
    select
        types.oid as type_oid,
        types.typname,
        types.typtype,
        extensions.extname
    from pg_catalog.pg_type as types
    left join pg_catalog.pg_depend as belongs
        on
            types.oid = belongs.objid
            and belongs.classid = 'pg_catalog.pg_type'::regclass
            and belongs.deptype = 'e'
    left join pg_catalog.pg_extension as extensions on belongs.refobjid = extensions.oid
    where types.typnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
),

nowhere as (
    {{ pgsplit.goes_nowhere() }}
),

found as (
    select
        'blocks' as severity,
        'column that nobody owns' as hazard,
        columns.object,
        columns.data_type as found,
        'It would be left behind; the check of the monolith fails until somebody owns it.' as means,
        'Add it to models/_sources.yml and say in seeds/column_ownership.csv where it goes,'
        ' or why it goes nowhere.' as mend
    from columns
    left join expected
        on columns.relname = expected.table_name and columns.attname = expected.column_name
    where
        expected.column_name is null
        and columns.relname in (select others.table_name from expected as others)
        and not exists (
            select 1 from nowhere
            where
                columns.relname = nowhere.monolith_table
                and nowhere.monolith_column in (columns.attname, '*')
        )

    union all

    select
        'note' as severity,
        'column that goes nowhere' as hazard,
        columns.object,
        nowhere.reason as found,
        'It stays in the monolith, and no service gets it.' as means,
        'If a service needs it, say in seeds/column_ownership.csv where it goes.' as mend
    from columns
    inner join nowhere
        on columns.relname = nowhere.monolith_table and columns.attname = nowhere.monolith_column

    union all

    select
        'blocks' as severity,
        'column is missing' as hazard,
        format(
            '%I.%I.%I', '{{ pgsplit.monolith_schema() }}', expected.table_name, expected.column_name
        ) as object,
        'expected as ' || expected.data_type as found,
        'Its table cannot land.' as means,
        format(
            'ALTER TABLE %I.%I ADD COLUMN %I %s; or take it out of models/_sources.yml,'
            ' seeds/column_ownership.csv and its model.',
            '{{ pgsplit.monolith_schema() }}',
            expected.table_name,
            expected.column_name,
            expected.data_type
        ) as mend
    from expected
    left join columns
        on expected.table_name = columns.relname and expected.column_name = columns.attname
    where
        columns.attname is null
        and expected.table_name in (select others.relname from columns as others)

    union all

    select
        'blocks' as severity,
        'column of another type' as hazard,
        columns.object,
        columns.data_type || ' where ' || expected.data_type || ' is expected' as found,
        'Its table cannot land.' as means,
        format(
            'ALTER TABLE %s ALTER COLUMN %I TYPE %s;',
            columns.table_name, columns.attname, expected.data_type
        ) as mend
    from columns
    inner join expected
        on columns.relname = expected.table_name and columns.attname = expected.column_name
    where columns.data_type <> expected.data_type

    union all

    select
        'changes behaviour' as severity,
        'numbers from a sequence' as hazard,
        object,
        case
            when attidentity = 'a' then 'GENERATED ALWAYS AS IDENTITY'
            when attidentity = 'd' then 'GENERATED BY DEFAULT AS IDENTITY'
            else 'DEFAULT ' || expression
        end as found,
        'A sequence does not follow: the service would give out numbers that are taken.' as means,
        format(
            'SELECT pg_get_serial_sequence(%L, %L); at the switch, let the service''s own'
            ' sequence begin behind SELECT max(%I) FROM %s;',
            table_name, attname, attname, table_name
        ) as mend
    from columns
    where attidentity <> '' or (attgenerated = '' and expression like 'nextval(%')

    union all

    select
        'blocks' as severity,
        'generated column' as hazard,
        object,
        'GENERATED ALWAYS AS (' || expression || ')' as found,
        'Its value is computed, not published: the mirror would stay without it.' as means,
        case attgenerated
            when 's'
                then format('ALTER TABLE %s ALTER COLUMN %I DROP EXPRESSION;', table_name, attname)
            else format('ALTER TABLE %s DROP COLUMN %I;', table_name, attname)
        end || ' and compute it in the model.' as mend
    from columns
    where attgenerated <> ''

    union all

    select
        'blocks' as severity,
        'column of large objects' as hazard,
        columns.object,
        columns.data_type as found,
        'The number arrives in the service, and what it stands for does not.' as means,
        format(
            'ALTER TABLE %s ADD COLUMN … bytea; UPDATE … SET … = lo_get(%I);',
            columns.table_name, columns.attname
        ) as mend
    from columns
    left join own_types using (type_oid)
    where columns.type_oid = 'oid'::regtype or own_types.typname = 'lo'

    union all

    select
        'changes behaviour' as severity,
        'large objects' as hazard,
        'pg_largeobject' as object,
        count(*) || ' large objects' as found,
        'They stay where they are: neither copied nor followed.' as means,
        'SELECT oid, lomowner::regrole FROM pg_largeobject_metadata; and move them into'
        ' columns of type bytea, or into a file store.' as mend
    from pg_catalog.pg_largeobject_metadata
    having count(*) > 0

    union all

    select
        'blocks' as severity,
        case
            when own_types.extname is not null then 'type of an extension'
            when own_types.typtype = 'e' then 'enum'
            when own_types.typtype = 'd' then 'domain'
            else 'type of the monolith''s own'
        end as hazard,
        columns.object,
        columns.data_type
        || coalesce(' of the extension ' || own_types.extname, '') as found,
        'A service database has no such type, so the mirror cannot be made there.' as means,
        format(
            'ALTER TABLE %s ALTER COLUMN %I TYPE text USING %I::text; or whichever built-in type'
            ' models/_sources.yml is to have.',
            columns.table_name, columns.attname, columns.attname
        ) as mend
    from columns
    inner join own_types using (type_oid)
)

select * from found
order by severity, hazard, object
