-- The tables and views of some schemas, as the catalogue has them: everybody may read that. Tables
-- of up to 8 MB can be counted in no time; of larger ones the planner's estimate is told.
select
    namespace.nspname::text as table_schema,
    class.relname::text as table_name,
    pg_get_userbyid(class.relowner)::text as owner,
    coalesce(obj_description(class.oid, 'pg_class'), '') as description,
    case
        when class.relkind <> 'v' and class.reltuples >= 0 then class.reltuples::bigint
    end as estimate,
    (
        class.relkind = 'r'
        and class.relpages <= 1024
        and has_table_privilege(class.oid, 'select')
    ) as is_countable,
    coalesce(
        (
            select
                json_agg(
                    json_build_object(
                        'name', attribute.attname,
                        'data_type', format_type(attribute.atttypid, attribute.atttypmod),
                        'is_required', attribute.attnotnull,
                        'default', coalesce(pg_get_expr(given.adbin, given.adrelid), ''),
                        'description', coalesce(col_description(class.oid, attribute.attnum), ''),
                        'is_key', coalesce(attribute.attnum = any(key.indkey), false)
                    )
                    order by attribute.attnum
                )
            from pg_attribute as attribute
            left join pg_attrdef as given
                on attribute.attrelid = given.adrelid and attribute.attnum = given.adnum
            left join pg_index as key
                on attribute.attrelid = key.indrelid and key.indisprimary
            where
                attribute.attrelid = class.oid
                and attribute.attnum > 0
                and not attribute.attisdropped
        ),
        '[]'
    ) as columns
from pg_class as class
inner join pg_namespace as namespace on class.relnamespace = namespace.oid
where
    current_setting('split.schemas')::jsonb ? namespace.nspname
    and class.relkind in ('r', 'p', 'v', 'm')
    and not class.relispartition
order by namespace.nspname, class.relname
