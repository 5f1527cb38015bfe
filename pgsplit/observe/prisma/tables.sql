-- Each table of a service's schema, as one JSON document: columns, indexes, foreign keys, checks,
-- and how far the split owns it. The setting split.service_schema names the schema.
select
    jsonb_build_object(
        'name', tables.relname,
        'owned_rows', made.owned_rows,
        'tombstone', made.tombstone,
        'columns', (
            select
                jsonb_agg(
                    jsonb_build_object(
                        'name', attributes.attname,
                        'type', case
                            when
                                types.typtype = 'd'
                                then format_type(types.typbasetype, types.typtypmod)
                            else format_type(attributes.atttypid, attributes.atttypmod)
                        end,
                        'enum', (
                            select
                                jsonb_build_object(
                                    'name', enums.typname,
                                    'schema', homes.nspname,
                                    'values', (
                                        select
                                            jsonb_agg(
                                                labels.enumlabel order by labels.enumsortorder
                                            )
                                        from pg_enum as labels
                                        where labels.enumtypid = enums.oid
                                    ),
                                    'is_list', types.typcategory = 'A'
                                )
                            from pg_type as enums
                            inner join pg_namespace as homes on enums.typnamespace = homes.oid
                            where
                                enums.oid = case
                                    when types.typcategory = 'A' then types.typelem
                                    else types.oid
                                end
                                and enums.typtype = 'e'
                        ),
                        'is_required', attributes.attnotnull,
                        'is_identity', attributes.attidentity <> '',
                        'is_generated', attributes.attgenerated <> '',
                        'default', pg_get_expr(defaults.adbin, defaults.adrelid)
                    )
                    order by attributes.attnum
                )
            from pg_attribute as attributes
            inner join pg_type as types on attributes.atttypid = types.oid
            left join pg_attrdef as defaults
                on
                    attributes.attrelid = defaults.adrelid
                    and attributes.attnum = defaults.adnum
            where
                attributes.attrelid = tables.oid
                and attributes.attnum > 0
                and not attributes.attisdropped
        ),
        'indexes', (
            select
                coalesce(jsonb_agg(
                    jsonb_build_object(
                        'name', classes.relname,
                        'is_primary', indexes.indisprimary,
                        'is_unique', indexes.indisunique,
                        'method', methods.amname,
                        'is_plain', indexes.indpred is null and indexes.indexprs is null
                        and not exists (
                            select from unnest(indexes.indclass) as used (class)
                            inner join pg_opclass as opclasses on used.class = opclasses.oid
                            where not opclasses.opcdefault
                        ),
                        'columns', (
                            select jsonb_agg(attributes.attname order by parts.position)
                            from
                                unnest(indexes.indkey::smallint[])
                                with ordinality as parts (attnum, position)
                            inner join pg_attribute as attributes
                                on
                                    attributes.attrelid = tables.oid
                                    and parts.attnum = attributes.attnum
                            where parts.position <= indexes.indnkeyatts
                        )
                    )
                    order by classes.relname
                ), '[]')
            from pg_index as indexes
            inner join pg_class as classes on indexes.indexrelid = classes.oid
            inner join pg_am as methods on classes.relam = methods.oid
            where indexes.indrelid = tables.oid and indexes.indisvalid
        ),
        'foreign_keys', (
            select
                coalesce(jsonb_agg(
                    jsonb_build_object(
                        'name', keys.conname,
                        'columns', (
                            select jsonb_agg(attributes.attname order by parts.position)
                            from unnest(keys.conkey) with ordinality as parts (attnum, position)
                            inner join pg_attribute as attributes
                                on
                                    keys.conrelid = attributes.attrelid
                                    and parts.attnum = attributes.attnum
                        ),
                        'table', referenced.relname,
                        'referenced', (
                            select jsonb_agg(attributes.attname order by parts.position)
                            from unnest(keys.confkey) with ordinality as parts (attnum, position)
                            inner join pg_attribute as attributes
                                on
                                    keys.confrelid = attributes.attrelid
                                    and parts.attnum = attributes.attnum
                        ),
                        'on_delete', keys.confdeltype,
                        'on_update', keys.confupdtype
                    )
                    order by keys.conname
                ), '[]')
            from pg_constraint as keys
            inner join pg_class as referenced on keys.confrelid = referenced.oid
            where
                keys.conrelid = tables.oid
                and keys.contype = 'f'
                and keys.conparentid = 0
                and referenced.relnamespace = tables.relnamespace
        ),
        'checks', (
            select
                coalesce(jsonb_agg(
                    pg_get_expr(checks.conbin, checks.conrelid, true) order by checks.conname
                ), '[]')
            from pg_constraint as checks
            where checks.conrelid = tables.oid and checks.contype = 'c'
        )
    )
from pg_class as tables
inner join pg_namespace as namespaces on tables.relnamespace = namespaces.oid
left join split.service_tables as made on tables.relname = made.table_name
where
    namespaces.nspname = current_setting('split.service_schema')
    and tables.relkind in ('r', 'p')
    and not tables.relispartition
order by tables.relname
