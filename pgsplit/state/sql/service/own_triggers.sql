-- Disables the service's own triggers on tables that it owns whole, so that a sync writes what the
-- monolith has. Waits for the lock that `alter table` takes, which no reader has. Idempotent.
create or replace function split.rest_own_triggers()
returns table (table_name text, trigger_name text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $rest$
begin
    for table_name, trigger_name in
        select tables.table_name, triggers.tgname
        from split.service_tables as tables
        inner join pg_trigger as triggers on triggers.tgrelid = tables.table_oid
        inner join pg_proc on pg_proc.oid = triggers.tgfoid
        where
            tables.owned_rows = 'true' and not triggers.tgisinternal and triggers.tgenabled <> 'D'
            and pronamespace <> 'split'::regnamespace
        order by 1, 2
    loop
        insert into split.resting_triggers
        select tables.table_name, tgname, tgenabled
        from split.service_tables as tables inner join pg_trigger on tgrelid = tables.table_oid
        where tables.table_name = rest_own_triggers.table_name and tgname = trigger_name
        on conflict on constraint resting_triggers_pkey do update set was = excluded.was;
        execute (
            select format('alter table %s disable trigger %I', table_oid::regclass, trigger_name)
            from split.service_tables as tables
            where tables.table_name = rest_own_triggers.table_name
        );
        return next;
    end loop;
end
$rest$;

create or replace function split.set_resting_triggers(is_awake boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $set$
declare
    resting record;
begin
    for resting in
        select triggers.trigger_name, triggers.was, table_oid::regclass as relation
        from split.resting_triggers as triggers
        inner join split.service_tables as tables on tables.table_name = triggers.table_name
        inner join pg_trigger on tgrelid = table_oid and tgname = trigger_name
        where (tgenabled = 'D') = is_awake
    loop
        execute format(
            'alter table %s %s trigger %I', resting.relation,
            case
                when not is_awake then 'disable'
                when resting.was = 'A' then 'enable always'
                when resting.was = 'R' then 'enable replica'
                else 'enable'
            end,
            resting.trigger_name
        );
    end loop;
end
$set$;

-- Enables them again, as they were. The switch does so in the transaction that opens the tables.
create or replace function split.wake_own_triggers()
returns void
language sql
security definer
set search_path = pg_catalog, pg_temp
as $wake$
    select split.set_resting_triggers(is_awake => true)
$wake$;

revoke execute on function split.rest_own_triggers() from public;
revoke execute on function split.wake_own_triggers() from public;
