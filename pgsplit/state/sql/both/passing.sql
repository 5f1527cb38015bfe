-- Who passes the write fence and the capture: a sync and a repair, and nobody who only says so.
--
-- They say it with the setting split.is_syncing, which any login can set. So whoever has logged in
-- must also be able to create objects in the schema split: its owner's members, who could drop the
-- triggers anyway, and superusers. The login counts, not the current role, because cascades and
-- functions with SECURITY DEFINER act as the tables' owner on behalf of anybody. Roles are not
-- named here, so a renamed role and a restored dump change nothing.
--
-- These two are the only places with the condition. Triggers have it in their own definition and
-- not behind a function, since nobody's write must depend on the right to call one.
create or replace function split.unless_syncing()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $condition$
    select 'when (pg_catalog.current_setting(''split.is_syncing'', true) is distinct from ''on'''
        ' or not pg_catalog.has_schema_privilege(session_user, ''split'', ''create''))'
$condition$;

create or replace function split.is_syncing()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $condition$
    select coalesce(current_setting('split.is_syncing', true) = 'on', false)
        and has_schema_privilege(session_user, 'split', 'create')
$condition$;

-- The triggers of this project that still have another condition: an earlier version has made them,
-- and they let pass whoever sets split.is_syncing. A partition's triggers follow its parent's.
create or replace function split.outdated_triggers()
returns table (relation regclass, name name, is_enabled boolean, renewal text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $outdated$
    select
        made.tgrelid::regclass,
        made.tgname,
        made.tgenabled <> 'D',
        regexp_replace(
            regexp_replace(made.definition, '^CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER'),
            'WHEN \(.*\) EXECUTE FUNCTION',
            split.unless_syncing() || ' EXECUTE FUNCTION'
        )
    from (
        select tgrelid, tgname, tgenabled, pg_get_triggerdef(pg_trigger.oid) as definition
        from pg_trigger
        inner join pg_proc on pg_proc.oid = pg_trigger.tgfoid
        where
            pg_proc.pronamespace = 'split'::regnamespace
            and not pg_trigger.tgisinternal
            and pg_trigger.tgparentid = 0
            and pg_trigger.tgqual is not null
    ) as made
    where made.definition ~ 'split\.is_syncing' and made.definition !~ 'has_schema_privilege'
    order by 1, 2
$outdated$;

-- Gives such triggers of some tables, or of all, the condition above. Writers are kept out while it
-- runs, and it waits for those who write for no longer than a second. Idempotent.
create or replace function split.renew_triggers(relations regclass[] default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $renew$
declare
    made record;
begin
    for made in
        select * from split.outdated_triggers() as outdated
        where relations is null or outdated.relation = any(relations)
    loop
        execute made.renewal;
        if not made.is_enabled then
            execute format('alter table %s disable trigger %I', made.relation, made.name);
        end if;
    end loop;
    perform split.triggers_changed();
end
$renew$;
