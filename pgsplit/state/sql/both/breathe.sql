-- Waits while a throttled runner wants its own queries to pause; true, so it can be a condition.
-- The runner holds an advisory lock meanwhile; this never holds it longer than an instant. It gives
-- up after half an hour, not silently.
create or replace function split.breathe() returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    began timestamptz;
    patience interval := coalesce(nullif(current_setting('split.patience', true), ''), '30 minutes');
begin
    while not pg_try_advisory_lock_shared(hashtext('split.breathe')) loop
        began := coalesce(began, clock_timestamp());
        if clock_timestamp() - began >= patience then
            raise exception 'The throttle has kept this query waiting for too long.'
            using hint = 'See why: runner.py status; go on without: runner.py throttle --off';
        end if;
        perform pg_sleep(0.005);
    end loop;
    perform pg_advisory_unlock_shared(hashtext('split.breathe'));
    return true;
end
$$;
comment on function split.breathe() is
'Waits while a throttled runner wants its own queries to pause.';
