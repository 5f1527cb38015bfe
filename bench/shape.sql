-- What a service's tables are made of, in the order in which they were: the SQL of their rows, and
-- their constraints and indexes.
select
    made.table_name,
    made.definition,
    array(
        select format('add constraint %I %s', own.conname, pg_get_constraintdef(own.oid))
        from pg_constraint as own
        where own.conrelid = made.table_oid and own.contype in ('p', 'u', 'c')
        order by own.contype desc, own.conname
    ) || array(
        select format('alter column %I set not null', own.attname)
        from pg_attribute as own
        where own.attrelid = made.table_oid and own.attnum > 0 and own.attnotnull
    ) as alterations,
    array(
        select format('add constraint %I %s', own.conname, pg_get_constraintdef(own.oid))
        from pg_constraint as own
        where own.conrelid = made.table_oid and own.contype = 'f'
    ) as foreign_keys,
    array(
        select pg_get_indexdef(own.indexrelid)
        from pg_index as own
        where
            own.indrelid = made.table_oid
            and not exists (select from pg_constraint where conindid = own.indexrelid)
    ) as indexes
from split.service_tables as made
order by made.built_at, made.table_name
