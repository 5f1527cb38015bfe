-- split.way_back_differs() finds the rows of a mirror table that its reverse model would change.
--
-- | returns    |                                                             |
-- |------------|-------------------------------------------------------------|
-- | id         | the row's id                                                |
-- | difference | changed, missing (the model yields no such row), or added   |
--
-- It finds none unless a model is wrong; that is what makes reverse replication safe. Rows are
-- compared by binary image, in one snapshot. A row with a change that split.sync() has not applied
-- yet can't be judged and is left out. Reads the mirror and the service's tables once.
create or replace function split.way_back_differs(mirror text)
returns table (id text, difference text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $differs$
declare
    schema text := (select service.mirror from split.service);
    model record;
begin
    select * into strict model from split.mirror_tables where table_name = mirror;
    return query execute format(
        $query$
            with

            compared as (
                select
                    coalesce(rebuilt.id, mirrored.id) as id,
                    case
                        when rebuilt.id is null then 'missing'
                        when mirrored.id is null then 'added'
                        else 'changed'
                    end as difference
                from (%s) as rebuilt
                full join %I.%I as mirrored on rebuilt.id = mirrored.id
                where record_image_ne(row(rebuilt.*), row(mirrored.*))
            )

            select * from compared
            where not exists (
                select from split.changes
                where
                    (changes.key = compared.id or changes.key is null)
                    and changes.changed_table = any($1)
            )
        $query$,
        model.definition, schema, mirror
    )
    using model.follows || format('%s.%s', schema, mirror);
end
$differs$;

-- split.keep_unlike() quarantines what the service has written and the monolith can't hold.
--
-- | returns    |                                                                 |
-- |------------|-----------------------------------------------------------------|
-- | table_name | a table of the service                                          |
-- | kept_in    | the table of the schema `audit` that its rows were copied to    |
-- | rows       | how many                                                        |
--
-- A rollback calls it before the service's tables follow the monolith again. From then on a row is
-- what the monolith's row yields, and anything else in it is gone, such as the time at which a
-- message was read. Equal values, such as 5 and 5.00, lose nothing, and a table that loses nothing
-- gets no copy. The caller's snapshot must show the mirror as it was before anybody wrote to the
-- monolith again. Reads the mirror and the tables once.
create or replace function split.keep_unlike(label text)
returns table (table_name text, kept_in text, rows bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep$
declare
    made record;
begin
    perform split.recognize_tables();
    for made in
        select
            tables.*,
            tables.table_oid::regclass as relation,
            quote_ident(key.attname) as key,
            shape.actual,
            shape.expected
        from split.service_tables as tables
        inner join pg_index as index on index.indrelid = tables.table_oid and index.indisprimary
        inner join pg_attribute as key
            on key.attrelid = tables.table_oid and key.attnum = index.indkey[0]
        cross join lateral (
            select
                string_agg(format('actual.%I', attname), ', ' order by attnum) as actual,
                string_agg(format('expected.%I', attname), ', ' order by attnum) as expected
            from pg_attribute
            where attrelid = tables.table_oid and attnum > 0 and not attisdropped
        ) as shape
        where tables.owned_rows <> 'false'
        order by tables.table_name
    loop
        table_name := made.table_name;
        select kept.kept_in, kept.rows into kept_in, rows
        from split.quarantine(
            made.table_name,
            format(
                $query$
                    select actual.*
                    from (select * from %s where %s) as actual
                    left join (%s) as expected on actual.%s = expected.%s
                    where
                        row(%s) is distinct from row(%s)
                $query$,
                made.relation, made.owned_rows, made.definition, made.key, made.key,
                made.actual, made.expected
            ),
            'Rows as the service had them before a rollback; the monolith could not hold all of them.',
            label,
            null
        ) as kept;
        if kept_in is not null then
            return next;
        end if;
    end loop;
end
$keep$;
