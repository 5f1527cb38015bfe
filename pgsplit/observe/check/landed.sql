-- What a service follows in the monolith: the extensions that its types come from, and its size.
with

types as (
    select distinct type.oid
    from pg_attribute as part
    inner join pg_class as class on class.oid = part.attrelid
    inner join pg_type as found on found.oid = part.atttypid
    inner join pg_type as type
        on type.oid in (found.oid, found.typelem, found.typbasetype) and type.oid <> 0
    where
        class.relnamespace = to_regnamespace(quote_ident(%(schema)s))
        and class.relname = any(%(tables)s)
        and format('%%s.%%s', class.relname, part.attname) = any(%(columns)s)
        and part.attnum > 0 and not part.attisdropped
)

select
    jsonb_build_object(
        'extensions', (
            select coalesce(jsonb_agg(distinct extension.extname), '[]')
            from types
            inner join pg_depend as member
                on member.classid = 'pg_type'::regclass and member.objid = types.oid
                and member.deptype = 'e'
            inner join pg_extension as extension on extension.oid = member.refobjid
        ),
        'bytes', (
            select coalesce(sum(pg_table_size(class.oid)), 0)::bigint
            from pg_class as class
            where
                class.relnamespace = to_regnamespace(quote_ident(%(schema)s))
                and class.relname = any(%(tables)s) and class.relkind in ('r', 'p')
        )
    )
