-- What a service follows in the monolith: the extensions that its types come from, and its size.
-- The setting split.followed says what: a schema, its tables, and TABLE.COLUMN of each column.
with

followed as (select current_setting('split.followed')::jsonb as wanted),

tables as (
    select
        class.oid,
        class.relname
    from followed
    inner join pg_class as class on followed.wanted -> 'tables' ? class.relname
    where
        class.relkind in ('r', 'p')
        and class.relnamespace = to_regnamespace(quote_ident(followed.wanted ->> 'schema'))
),

types as (
    select distinct type.oid
    from followed
    cross join tables
    inner join pg_attribute as part on tables.oid = part.attrelid
    inner join pg_type as found on part.atttypid = found.oid
    inner join pg_type as type on type.oid in (found.oid, found.typelem, found.typbasetype)
    where
        followed.wanted -> 'columns' ? format('%s.%s', tables.relname, part.attname)
        and part.attnum > 0 and not part.attisdropped
),

extensions as (
    select distinct extension.extname
    from types
    inner join pg_depend as member
        on
            types.oid = member.objid
            and member.classid = 'pg_type'::regclass and member.deptype = 'e'
    inner join pg_extension as extension on member.refobjid = extension.oid
)

select
    jsonb_build_object(
        'extensions', (select coalesce(jsonb_agg(extname), '[]') from extensions),
        'bytes', (select coalesce(sum(pg_table_size(oid)), 0)::bigint from tables)
    )
