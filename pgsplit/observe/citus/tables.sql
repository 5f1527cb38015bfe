-- What a service's models say of distributing its tables, and what the tables are. The setting
-- split.service_schema names the schema; split.distribution has the models' words as JSON.
with

wanted as (
    select
        key as table_name,
        value as column_name
    from json_each_text(current_setting('split.distribution')::json)
)

select
    wanted.table_name,
    wanted.column_name,
    quote_ident(wanted.column_name) as quoted_column,
    format('%I.%I', current_setting('split.service_schema'), wanted.table_name) as full_name,
    classes.relkind is not null as is_there,
    coalesce(classes.relkind = 'p', false) as is_partitioned,
    attributes.attname is not null as has_column,
    coalesce(not attributes.attnotnull, false) as is_nullable,
    coalesce(attributes.attgenerated <> '', false) as is_generated,
    format('%s %s', attributes.atttypid, attributes.attcollation) as hashed_as,
    array(
        select others.attname::text
        from pg_attribute as others
        where
            others.attrelid = classes.oid
            and others.attnum > 0
            and others.attnotnull
            and others.attgenerated = ''
        order by others.attnum
    ) as possible,
    exists(
        select 1
        from pg_trigger as triggers
        inner join pg_proc as functions on triggers.tgfoid = functions.oid
        where
            triggers.tgrelid = classes.oid
            and triggers.tgenabled <> 'D'
            and functions.pronamespace = to_regnamespace('split')
    ) as is_followed
from wanted
left join pg_class as classes
    on
        wanted.table_name = classes.relname
        and classes.relnamespace
        = to_regnamespace(quote_ident(current_setting('split.service_schema')))
        and classes.relkind in ('r', 'p')
        and not classes.relispartition
left join pg_attribute as attributes
    on
        classes.oid = attributes.attrelid
        and wanted.column_name = attributes.attname
        and attributes.attnum > 0
order by wanted.table_name
