-- split.guarantees() tells whether PostgreSQL itself sees to it that all rows of a table are so,
-- since it has checked them and checks each that is written.
--
-- | kind        | the columns                       | guaranteed by                              |
-- |-------------|-----------------------------------|--------------------------------------------|
-- | not_null    | are never null                    | a not-null constraint on each              |
-- | unique      | are the same in no two rows       | a primary key or unique constraint on some |
-- | foreign_key | name a row of `other`, or nothing | a foreign key on just these                |
--
-- Data tests ask it before they read any row. A constraint that was not validated or that somebody
-- has disabled guarantees nothing, and neither does one of a table that others inherit from.
create or replace function split.guarantees(
    relation regclass,
    kind text,
    columns text[],
    other regclass default null,
    other_columns text[] default '{}'
)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $guarantees$
    with

    asked as (
        select
            array(
                select attnum from unnest(columns) with ordinality as listed (name, position)
                inner join pg_attribute on attrelid = relation and attname = name and not attisdropped
                order by position
            ) as here,
            array(
                select attnum from unnest(other_columns) with ordinality as listed (name, position)
                inner join pg_attribute on attrelid = other and attname = name and not attisdropped
                order by position
            ) as there
    ),

    held as (
        select * from pg_constraint
        where
            conrelid = relation
            and convalidated
            and not exists (
                select from pg_trigger where tgconstraint = pg_constraint.oid and tgenabled <> 'O'
            )
    )

    select
        exists (select from pg_class where oid = relation and relkind = 'r')
        and not exists (select from pg_inherits where inhparent = relation)
        and cardinality(asked.here) = cardinality(columns)
        and case kind
            when 'not_null' then not exists (
                select from pg_attribute
                where
                    attrelid = relation
                    and attnum = any(asked.here)
                    and not (
                        attnotnull
                        -- As PostgreSQL 18 knows them; before, each is validated.
                        and not exists (
                            select from pg_constraint
                            where
                                conrelid = relation
                                and contype = 'n'
                                and conkey = array[attnum]
                                and not convalidated
                        )
                    )
            )
            when 'unique' then exists (
                select from held where contype in ('p', 'u') and conkey <@ asked.here
            )
            when 'foreign_key' then exists (
                select from held
                where contype = 'f' and conkey = asked.here and confrelid = other and confkey = asked.there
            )
        end
    from asked
$guarantees$;
