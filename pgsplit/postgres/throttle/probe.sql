-- Measures some writes, each as an application feels it: a row is locked, which writes WAL, and the
-- commit waits until that is on disk. A lock leaves no version of the row behind, as an update does
-- for as long as a copy's snapshot is open. The time in which the process wakes up counts, too.
do $probe$
declare
    due timestamptz := clock_timestamp();
    began timestamptz;
    took text := '';
    writes boolean := to_regclass('split.throttle') is not null;
begin
    for number in 1..{writes} loop
        due := due + interval '{apart_ms} ms';
        perform pg_sleep_until(due);
        if writes then
            perform from split.throttle for no key update;
        else
            perform count(*) from pg_catalog.pg_class where oid = 'pg_catalog.pg_class'::regclass;
        end if;
        commit;
        began := clock_timestamp();
        took := took || ' ' || extract(epoch from began - due)::text;
        due := began;
    end loop;
    perform set_config('split.took', took, false);
end
$probe$;
