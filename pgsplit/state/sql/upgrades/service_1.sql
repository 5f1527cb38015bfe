-- From version 0, which had no number, to version 1.
lock table split.turn in exclusive mode;

-- The foreign server that a read-through cache asks is named after the service that owns the rows.
do $upgrade$
declare
    renamed text := current_setting('split.read_from');
begin
    if not exists (
        select from pg_foreign_server where srvname = 'split_owner' and pg_has_role(srvowner, 'usage')
    ) then
        return;
    end if;
    if renamed = '' or exists (select from pg_foreign_server where srvname = renamed) then
        drop server split_owner cascade;
    else
        execute format('alter server split_owner rename to %I', renamed);
    end if;
end
$upgrade$;

select set_config('role', pg_get_userbyid(namespaces.nspowner), true)
from pg_catalog.pg_namespace as namespaces
where namespaces.nspname = 'split';

-- Functions know the project's names from here. The oids of version 0 are of this very database.
alter table split.service
add column database text not null default current_setting('split.database'),
add column mirror text not null default current_setting('split.mirror'),
add column database_oid oid;
alter table split.service
alter column database drop default,
alter column mirror drop default;
update split.service
set database_oid = databases.oid
from pg_catalog.pg_database as databases
where databases.datname = current_database();

-- Each inbox says by itself which of its events are gone. The functions of version 0 that read
-- and write this are in use until the next build, so they are redirected.
create table if not exists split.inboxes (
    entity text primary key,
    removed_to bigint not null
);
do $upgrade$
declare
    made record;
begin
    for made in
        select
            pg_get_functiondef(oid) as definition,
            (regexp_match(proname, '^(?:append_)?(.+)_events(?:_since)?$'))[1] as entity
        from pg_proc
        where
            pronamespace in ('split'::regnamespace, to_regnamespace(quote_ident(current_setting('split.database'))))
            and prosrc like '%events_removed_to%'
    loop
        insert into split.inboxes (entity, removed_to)
        select made.entity, events_removed_to from split.service
        on conflict do nothing;
        execute replace(
            replace(
                made.definition,
                '(select events_removed_to from split.service)',
                format('(select inboxes.removed_to from split.inboxes where entity = %L)', made.entity)
            ),
            'update split.service set events_removed_to = removed_to;',
            format(
                'insert into split.inboxes (entity, removed_to) values (%L, removed_to)'
                ' on conflict (entity) do update set removed_to = excluded.removed_to;',
                made.entity
            )
        );
    end loop;
end
$upgrade$;
alter table split.service drop column events_removed_to;
