-- split.way_back_sample_differs() is what a build asks of split.way_back_differs(): all rows of a
-- table that has no more than `most`; else so many rows at random, other ones each time, and
-- besides every row that only one side has. Which rows are there takes the keys; what is in them
-- takes a scan of all that the model reads, which comes before a switch.
create or replace function split.way_back_sample_differs(mirror text, most bigint)
returns table (id text, difference text)
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $differs$
declare
    relation regclass := (select format('%I.%I', service.mirror, $1) from split.service);
    rows_estimate real := (select reltuples from pg_class where oid = relation);
    looked_at text[];
begin
    if rows_estimate <= most or (select completed_at is not null from split.service) then
        return query select * from split.way_back_differs(mirror);
        return;
    end if;
    execute format(
        $query$
            select array_agg(found.id) from (
                (select id from %1$s tablesample system (%2$s))
                union all
                (
                    select coalesce(rebuilt.id, mirrored.id)
                    from (%3$s
                    ) as rebuilt
                    full join %1$s as mirrored on rebuilt.id = mirrored.id
                    where rebuilt.id is null or mirrored.id is null
                    limit %4$s
                )
            ) as found
        $query$,
        relation,
        100 * most / rows_estimate,
        (select definition from split.mirror_tables where table_name = mirror),
        most
    ) into looked_at;
    return query select * from split.way_back_differs(mirror, coalesce(looked_at, '{}'));
end
$differs$;
