-- From version 2 to version 3.
lock table split.turn in exclusive mode;

-- When the last switch was that a rollback has ended is not known of earlier ones.
alter table split.service add column ended_switch timestamptz;

-- A switched service that publishes nothing to the monolith is completed; since when is not known.
alter table split.service add column completed_at timestamptz;
update split.service set completed_at = clock_timestamp()
where
    switched_at is not null
    and not exists (
        select from pg_catalog.pg_publication
        where pg_publication.pubname = 'split_' || service.database || '_back'
    );

-- What others share of a completed service's tables; the next build says so.
alter table split.mirror_tables add column shared_definition text;

-- Counting hits and misses of read-through caches waits for no disk any more.
do $counters$
declare
    counter text;
begin
    for counter in
        select oid::regclass from pg_catalog.pg_class
        where relnamespace = 'split'::regnamespace and relkind = 'S' and relname ~ '_cache_(hits|misses)$'
    loop
        execute format('alter sequence %s set unlogged', counter);
    end loop;
end
$counters$;

-- Which keys touch the rows of a table; the next build says so.
alter table split.service_tables add column followed jsonb;
alter table split.mirror_tables add column followed jsonb;

-- They take another argument now.
drop function if exists split.way_back_differs(text);
drop function if exists split.unlike_rows(text);
