-- The functions that an inserted row runs for the columns that it leaves out: those of strangers, and those
-- of PostgreSQL and of extensions that do something with our rights. Domains have defaults, too.
--
-- | parameter of psycopg | meaning                                                |
-- |----------------------|--------------------------------------------------------|
-- | table                | its name with its schema, quoted where it has to be    |
-- | columns              | the columns that the row has values for                |
select distinct
    format('the default of %%s.%%I calls %%s', part.attrelid::regclass, part.attname, proc.oid::regprocedure),
    case
        when value.oid is null then format('alter domain %%s drop default;', part.atttypid::regtype)
        else format('alter table %%s alter column %%I drop default;', part.attrelid::regclass, part.attname)
    end
from pg_attribute as part
left join pg_attrdef as value on part.attrelid = value.adrelid and part.attnum = value.adnum
inner join pg_type as kind on part.atttypid = kind.oid
cross join lateral regexp_matches(
    coalesce(value.adbin, kind.typdefaultbin)::text, ':(?:op)?funcid (\d+)', 'g'
) as called (function)
inner join pg_proc as proc on proc.oid = called.function[1]::oid
inner join pg_roles as owner on proc.proowner = owner.oid
where
    part.attrelid = to_regclass(%(table)s)
    and part.attnum > 0
    and not part.attisdropped
    and part.attname <> all(%(columns)s)
    and (
        not (owner.rolsuper or owner.rolname = current_user)
        or (
            (proc.provolatile = 'v' or proc.proname ~ '_to_xml|^pg_input_')
            and proc.proname !~ '^(nextval|clock_timestamp|timeofday|random|gen_random_uuid|uuid.*)$'
            and (
                proc.pronamespace = 'pg_catalog'::regnamespace
                or exists (
                    select from pg_depend as member
                    where
                        member.classid = 'pg_proc'::regclass
                        and member.objid = proc.oid
                        and member.deptype = 'e'
                )
            )
        )
    )
order by 1
