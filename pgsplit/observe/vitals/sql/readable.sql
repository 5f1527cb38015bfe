-- Which tables of the schema split there are, and whether this login may read them. Asked of the
-- catalogue first, so that nothing but tables is read.
select
    class.relname::text as name,
    has_schema_privilege(class.relnamespace, 'usage')
    and has_table_privilege(class.oid, 'select') as may_read,
    array_agg(member.attname::text) as columns
from pg_class as class
inner join pg_attribute as member on class.oid = member.attrelid
where
    class.relnamespace = to_regnamespace('split')
    and class.relkind = 'r'
    and member.attnum > 0
    and not member.attisdropped
group by class.oid;
