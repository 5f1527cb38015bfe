-- wait_for() lets an application read what it has just written, while it reads here and writes in
-- the monolith. Right after its commit there it asks the monolith's clock, and waits here:
--
--     select wait_for('2027-02-14 09:00:12.345+00');              five seconds at most
--     select wait_for('2027-02-14 09:00:12.345+00', '500 ms');
--
-- True: all that was committed before that time is in the service's tables. False: the time is up;
-- read from the monolith. Once the service is switched, the answer is true at once.
--
-- It is in the service's own schema, since the service's login may not enter the schema split. Not
-- made if the schema is not, or no longer, this project's.
do $install$
declare
    home text;
begin
    select own.nspname into home
    from pg_catalog.pg_namespace as own
    inner join pg_catalog.pg_namespace as ours
        on ours.nspname = 'split' and ours.nspowner = own.nspowner
    where own.nspname = current_setting('split.database');
    if home is null then
        return;
    end if;
    execute format(
        $create$
        create or replace function %I.wait_for(
            written_at timestamptz, patience interval default '5 seconds'
        )
        returns boolean
        language plpgsql
        strict
        security definer
        set search_path = pg_catalog, pg_temp
        as $wait$
        declare
            give_up_at timestamptz := clock_timestamp() + patience;
        begin
            if current_setting('transaction_isolation') <> 'read committed' then
                raise exception using
                    errcode = 'active_sql_transaction',
                    message = 'wait_for() sees no news in a transaction that is '
                        || current_setting('transaction_isolation') || '.',
                    hint = 'Call it before the transaction begins.';
            end if;
            loop
                perform from split.service where switched_at is not null or as_of >= written_at;
                if found or clock_timestamp() >= give_up_at then
                    return found;
                end if;
                perform pg_sleep(0.02);
            end loop;
        end
        $wait$
        $create$,
        home
    );
    execute format('revoke execute on function %I.wait_for from public', home);
    if to_regrole(quote_ident(current_setting('split.login'))) is not null then
        execute format(
            'grant execute on function %I.wait_for to %I', home, current_setting('split.login')
        );
    end if;
end
$install$;
