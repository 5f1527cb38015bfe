-- What a service has changed of the tables that this project made: found, named, and carried.

-- The columns that a query gives, with their types. Plans the query and reads no row.
create or replace function split.columns_of(query text)
returns table (name text, type text)
language plpgsql
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
as $columns$
begin
    execute format(E'create temporary table split_shape as select * from (%s\n) as given limit 0', query);
    return query
    select attname::text, format_type(atttypid, atttypmod) from pg_attribute
    where attrelid = 'pg_temp.split_shape'::regclass and attnum > 0
    order by attnum;
    drop table pg_temp.split_shape;
end
$columns$;

-- All about a table that could keep a sync from writing it, or a reverse model from reading it. Our
-- own triggers are left out: their functions are in the schema split.
create or replace function split.objects_of(relation regclass)
returns table (kind text, name text, definition text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $objects$
    select
        'column', attname::text,
        format_type(atttypid, atttypmod)
        || case when attgenerated <> '' then ' generated' when attidentity <> '' then ' identity' else '' end
        || case when attnotnull then ' not null' else '' end
    from pg_attribute
    where attrelid = relation and attnum > 0 and not attisdropped
    union all
    select 'constraint', conname, pg_get_constraintdef(oid) from pg_constraint
    where conrelid = relation and contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select 'referenced by', format('%s %I', conrelid::regclass, conname), pg_get_constraintdef(oid)
    from pg_constraint
    where confrelid = relation and contype = 'f' and conrelid <> relation and conparentid = 0
    union all
    select 'unique index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index
    where
        indrelid = relation and indisunique
        and not exists (select from pg_constraint where conindid = indexrelid and conrelid = relation)
    union all
    select 'trigger', tgname, pg_get_triggerdef(triggers.oid)
    from pg_trigger as triggers inner join pg_proc on pg_proc.oid = tgfoid
    where
        tgrelid = relation and not tgisinternal and tgenabled <> 'D'
        and pronamespace <> 'split'::regnamespace
    union all
    select 'rule', rulename, pg_get_ruledef(oid) from pg_rewrite where ev_class = relation
    union all
    select 'inheritance', other::regclass::text, other::regclass::text
    from (
        select inhrelid as other from pg_inherits where inhparent = relation
        union all
        select inhparent from pg_inherits where inhrelid = relation
    ) as related
    union all
    select 'persistence', relpersistence::text, relpersistence::text from pg_class where oid = relation
    union all
    select 'owner', quote_ident(pg_get_userbyid(relowner)), '' from pg_class where oid = relation
$objects$;

-- Notes what a table is like, right after it was made. A table that was made before there were
-- such notes gets its columns from its model, and counts as unchanged otherwise.
create or replace function split.note_made(made_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $note$
declare
    made record;
begin
    select * into strict made from split.service_tables where table_name = made_name;
    delete from split.made_objects where table_name = made_name;
    insert into split.made_objects
    select made_name, found.kind, found.name, found.definition
    from split.objects_of(made.table_oid::regclass) as found
    where
        found.kind <> 'column'
        or found.name in (select modelled.name from split.columns_of(made.definition) as modelled);
end
$note$;

-- split.own_changes() finds what is no longer as this project made it.
--
-- | returns    |                                                                     |
-- |------------|---------------------------------------------------------------------|
-- | table_name | a table that this project made                                      |
-- | what       | the change, for people                                              |
-- | harm       | none; later: rows may fail to be written some day; forward: a sync  |
-- |            | from the monolith fails or harms own rows; reverse: a sync to it    |
-- |            | fails, too                                                          |
-- | hint       | the statement that fixes it, or what becomes of it                  |
--
-- Reads only the catalogue.
create or replace function split.own_changes()
returns table (table_name text, what text, harm text, hint text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $changes$
    with

    here as (
        select
            service.database,
            quote_ident(pg_get_userbyid(nspowner)) as owner,
            nspowner,
            (select rolsuper or rolbypassrls from pg_roles where oid = nspowner) as sees_all
        from split.service inner join pg_namespace on nspname = 'split'
    ),

    made as (
        select
            tables.table_name,
            tables.owned_rows,
            format('%I.%I', here.database, tables.table_name) as name,
            class.oid as relation,
            class.relname, class.relkind, class.relnamespace, class.relowner,
            class.relrowsecurity, class.relforcerowsecurity,
            in_place.relkind as in_place,
            class.relnamespace = to_regnamespace(quote_ident(here.database))
            and class.relname = tables.table_name as is_there
        from split.service_tables as tables
        cross join here
        left join pg_class as class on class.oid = tables.table_oid
        left join pg_class as in_place
            on in_place.oid = to_regclass(format('%I.%I', here.database, tables.table_name))
    ),

    found as (
        select made.table_name, made.name as relation, made.owned_rows, objects.*
        from made cross join lateral split.objects_of(made.relation) as objects
        where made.is_there
    ),

    compared as (
        select
            made.name as relation,
            made.owned_rows,
            coalesce(now.table_name, known.table_name) as table_name,
            coalesce(now.kind, known.kind) as kind,
            coalesce(now.name, known.name) as name,
            now.definition as is_now,
            known.definition as was
        from found as now
        full join (
            select made_objects.* from split.made_objects
            inner join made on made.table_name = made_objects.table_name and made.is_there
        ) as known
            on known.table_name = now.table_name and known.kind = now.kind and known.name = now.name
        inner join made on made.table_name = coalesce(now.table_name, known.table_name)
        where
            now.definition is distinct from known.definition
            -- A rule with another name is the same rule.
            and not (
                coalesce(now.kind, known.kind) = 'constraint' and (
                    exists (
                        select from found as renamed
                        where
                            now.name is null and renamed.table_name = known.table_name
                            and renamed.kind = known.kind and renamed.definition = known.definition
                    )
                    or exists (
                        select from split.made_objects as renamed
                        where
                            known.name is null and renamed.table_name = now.table_name
                            and renamed.kind = now.kind and renamed.definition = now.definition
                    )
                )
            )
            and exists (select from split.made_objects as noted where noted.table_name = made.table_name)
    ),

    new_columns as (
        select
            compared.*,
            attribute.attgenerated <> '' as is_generated,
            (attribute.attnotnull or kinds.typnotnull) and not attribute.atthasdef
            and attribute.attidentity = '' and kinds.typdefault is null as needs_a_value,
            kinds.typnotnull as domain_needs_it,
            quote_ident(compared.name) as quoted
        from compared
        inner join pg_attribute as attribute
            on attribute.attrelid = compared.relation::regclass and attribute.attname = compared.name
        inner join pg_type as kinds on kinds.oid = attribute.atttypid
        where compared.kind = 'column' and compared.was is null
    )

    -- The table itself
    select
        table_name,
        case
            when relation is null then format('table %s has been dropped', name)
            else format('table %s is called %s now', name, relation::regclass)
        end
        || case when in_place is null then '' else ', and another relation has its name' end,
        'reverse',
        case when in_place is null then '' else format(
            'alter %s %s rename to %I; ',
            case in_place when 'v' then 'view' when 'm' then 'materialized view' else 'table' end,
            name, table_name || '_own'
        ) end
        || case
            when relation is null
                then format('Restore %s from a backup: runner.py backups', name)
            else concat_ws(
                ' ',
                case when relnamespace <> to_regnamespace(quote_ident(here.database)) then format(
                    'alter table %s set schema %I;', relation::regclass, here.database
                ) end,
                case when relname <> table_name then format(
                    'alter table %I.%I rename to %I;', here.database, relname, table_name
                ) end
            )
        end
    from made cross join here
    where is_there is not true
    union all
    select
        made.table_name,
        format('row security of %s hides rows from %s, who syncs them', made.name, here.owner),
        'reverse',
        case
            when made.relowner = here.nspowner then format('alter table %s no force row level security;', made.name)
            else format('alter table %s owner to %s; alter table %s no force row level security;', made.name, here.owner, made.name)
        end
    from made cross join here
    where
        made.is_there and made.relrowsecurity and not here.sees_all
        and (made.relforcerowsecurity or not pg_has_role(here.nspowner, made.relowner, 'usage'))
    union all
    select
        made.table_name,
        format('%s may not %s %s, which it syncs', here.owner, lower(lacking.privilege), made.name),
        'reverse',
        format('grant %s on %s to %s;', lower(lacking.privilege), made.name, here.owner)
    from made cross join here
    cross join unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) as lacking (privilege)
    where made.is_there and not has_table_privilege(here.nspowner, made.relation, lacking.privilege)
    union all
    select
        compared.table_name,
        format('%s belongs to %s instead of %s', compared.relation, compared.name, here.owner),
        'later',
        format('alter table %s owner to %s;', compared.relation, here.owner)
    from compared cross join here
    where compared.kind = 'owner' and compared.was is null and compared.name <> here.owner
    union all
    select
        table_name,
        format('%s is unlogged: a crash of the server empties it', relation),
        'later',
        format('alter table %s set logged;', relation)
    from compared where kind = 'persistence' and name = 'u'
    union all
    select
        table_name,
        format('%s is linked with %s by inheritance or as a partition', relation, name),
        'reverse',
        case
            when exists (
                select from pg_class where oid = compared.name::regclass and relkind = 'p'
            ) then format('alter table %s detach partition %s;', name, relation)
            when exists (
                select from pg_inherits
                where inhrelid = compared.relation::regclass and inhparent = compared.name::regclass
            ) then format('alter table %s no inherit %s;', relation, name)
            else format('alter table %s no inherit %s;', name, relation)
        end
    from compared where kind = 'inheritance' and was is null

    -- Its columns
    union all
    select
        table_name,
        format('column %s.%s is the service''s own', relation, quoted)
        || case when is_generated then ', and generated' when needs_a_value then ', not null and without a default' else '' end,
        case when needs_a_value and not is_generated then 'forward' else 'none' end,
        case
            when is_generated then 'The monolith does not get it; it stays.'
            when needs_a_value and domain_needs_it then format(
                'alter table %s alter column %s set default …; with a value that its domain allows, since rows of the monolith have none.',
                relation, quoted
            )
            when needs_a_value then format('alter table %s alter column %s drop not null;', relation, quoted)
            else 'The monolith does not get it; a rollback also copies its values to the schema audit.'
        end
    from new_columns
    where
        not needs_a_value or is_generated
        or not exists (  -- then it is one of ours, renamed
            select from compared as gone
            where
                gone.table_name = new_columns.table_name and gone.kind = 'column' and gone.is_now is null
                and replace(gone.was, ' not null', '') = replace(new_columns.is_now, ' not null', '')
        )
    union all
    select
        gone.table_name,
        format('column %s.%I is gone', gone.relation, gone.name)
        || coalesce(format('; perhaps it is %I now', renamed.name), ''),
        'reverse',
        case
            when renamed.name is not null then format(
                'alter table %s rename column %I to %I;', gone.relation, renamed.name, gone.name
            )
            else format(
                'alter table %s add column %I %s;', gone.relation, gone.name, replace(gone.was, ' not null', '')
            )
        end
    from compared as gone
    left join lateral (
        select new_columns.name from new_columns
        where
            new_columns.table_name = gone.table_name
            and replace(new_columns.is_now, ' not null', '') = replace(gone.was, ' not null', '')
        order by new_columns.name
        limit 1
    ) as renamed on true
    where gone.kind = 'column' and gone.is_now is null
    union all
    select
        table_name,
        format('column %s.%I is %s instead of %s', relation, name, is_now, was),
        case
            when replace(is_now, ' not null', '') <> replace(was, ' not null', '') then 'reverse'
            else 'later'
        end,
        case
            when is_now like '% generated%' then format('alter table %s alter column %I drop expression;', relation, name)
            when is_now like '% identity%' then format('alter table %s alter column %I drop identity;', relation, name)
            when replace(is_now, ' not null', '') <> replace(was, ' not null', '') then format(
                'alter table %s alter column %I type %s using %I::%s;', relation, name,
                replace(was, ' not null', ''), name, replace(was, ' not null', '')
            )
            else format(
                'alter table %s alter column %I %s not null;', relation, name,
                case when was like '% not null' then 'set' else 'drop' end
            )
        end
    from compared where kind = 'column' and is_now is not null and was is not null

    -- Its rules
    union all
    select
        table_name,
        format('%s %s %s', kind, name, case
            when was is null then format('on %s is the service''s own: %s', relation, is_now)
            when is_now is null then format('of %s is gone: %s', relation, was)
            else format('of %s is %s instead of %s', relation, is_now, was)
        end),
        case
            when coalesce(was, is_now) like 'PRIMARY KEY%' then 'reverse'
            when was is null then 'none'
            else 'later'
        end,
        case
            when was is null and coalesce(was, is_now) not like 'PRIMARY KEY%'
                then 'It stays. After a rollback a sync fails, and says so, if rows of the monolith break it.'
            when kind = 'unique index' then concat_ws(
                ' ', case when is_now is not null then format('drop index %s;', name) end, was || ';'
            )
            else concat_ws(
                ' ',
                case
                    when is_now is not null then format('alter table %s drop constraint %I;', relation, name)
                    when was like 'PRIMARY KEY%' then (
                        select format('alter table %s drop constraint %I;', relation, conname) from pg_constraint
                        where conrelid = compared.relation::regclass and contype = 'p'
                    )
                end,
                case when was is not null then format('alter table %s add constraint %I %s;', relation, name, was) end
            )
        end
    from compared
    where
        kind in ('constraint', 'unique index')
        and not (
            was is null and is_now like 'PRIMARY KEY%' and exists (
                select from compared as replaced
                where replaced.table_name = compared.table_name and replaced.was like 'PRIMARY KEY%'
            )
        )
    union all
    select
        table_name,
        format('%s refers to %s: %s', name, relation, is_now)
        || case when is_now ~ 'ON (DELETE|UPDATE) (CASCADE|SET)' then '; a sync would change own rows by it' else '' end,
        case when is_now ~ 'ON (DELETE|UPDATE) (CASCADE|SET)' then 'forward' else 'none' end,
        case
            when is_now ~ 'ON (DELETE|UPDATE) (CASCADE|SET)' then format(
                'alter table %s drop constraint %s, add constraint %s %s;',
                constraints.conrelid::regclass, quote_ident(constraints.conname), quote_ident(constraints.conname),
                regexp_replace(
                    is_now, ' ON (DELETE|UPDATE) (CASCADE|SET NULL|SET DEFAULT)( \([^)]*\))?', '', 'g'
                )
            )
            else 'It stays. After a rollback a sync fails, and says so, if the monolith deletes a row that it needs.'
        end
    from compared
    inner join pg_constraint as constraints
        on constraints.confrelid = compared.relation::regclass and constraints.contype = 'f'
        and format('%s %I', constraints.conrelid::regclass, constraints.conname) = compared.name
    where
        kind = 'referenced by' and was is null
        and constraints.conrelid not in (select table_oid from split.service_tables)
    union all
    select
        compared.table_name,
        format('trigger %I on %s is the service''s own, and fires for what a sync writes', name, relation),
        case
            when is_now !~* '\mbefore\M.*\mfor each row\M' then 'none'
            when owned_rows = 'true' and service.switched_at is not null then 'none'
            else 'later'
        end,
        case
            when owned_rows <> 'true' then format('alter table %s disable trigger %I;', relation, name)
            when service.switched_at is null
                then 'select * from split.rest_own_triggers(); The next switch enables it again.'
            else 'A rollback disables it, and the next switch enables it again.'
        end
    from compared cross join split.service
    where kind = 'trigger' and was is null
    union all
    select
        table_name,
        format('rule %I on %s: a sync can''t write a table that has rules', name, relation),
        'forward',
        format('drop rule %I on %s;', name, relation)
    from compared where kind = 'rule' and was is null

    -- The mirror and our own records
    union all
    select
        class.relname,
        format('row security of %s hides rows from %s, who syncs them', class.oid::regclass, here.owner),
        'reverse',
        format('alter table %s no force row level security;', class.oid::regclass)
    from pg_class as class cross join here cross join split.service
    where
        class.relkind = 'r' and class.relrowsecurity and not here.sees_all
        and class.relnamespace in ('split'::regnamespace, to_regnamespace(quote_ident(service.mirror)))
        and (class.relforcerowsecurity or not pg_has_role(here.nspowner, class.relowner, 'usage'))
    order by 1, 2
$changes$;

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

-- Enables them again, as they were, or disables them once more if the switch is undone. The switch
-- enables them when nothing is left to sync.
create or replace function split.wake_own_triggers()
returns void
language sql
security definer
set search_path = pg_catalog, pg_temp
as $wake$
    select split.set_resting_triggers(is_awake => true)
$wake$;

create or replace function split.rest_known_triggers()
returns void
language sql
security definer
set search_path = pg_catalog, pg_temp
as $rest$
    select split.set_resting_triggers(is_awake => false)
$rest$;

-- split.try_to_follow() tries what a sync and a rollback do with each of the service's tables, on
-- no row, and says what fails.
--
-- The caller's transaction holds split.turn and is rolled back.
create or replace function split.try_to_follow()
returns table (table_name text, problem text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $try$
declare
    made record;
begin
    delete from split.changes;
    perform set_config('split.is_syncing', 'on', true);
    for made in
        select tables.table_name as name, table_oid::regclass as relation
        from split.service_tables as tables
        where tables.owned_rows <> 'false'
        order by 1
    loop
        begin
            execute 'explain ' || split.unlike_rows(made.name);
            execute (
                select format(
                    'explain insert into %s as kept (%s) select %s from %s where false'
                    ' on conflict (%I) do update set (%s) = row(%s)',
                    made.relation, listed, listed, made.relation, key, listed, excluded
                )
                from (
                    select
                        string_agg(quote_ident(name), ', ' order by name) as listed,
                        string_agg('excluded.' || quote_ident(name), ', ' order by name) as excluded
                    from split.made_objects as objects
                    where objects.table_name = made.name and kind = 'column'
                ) as columns
                cross join (select split.key_of(made.relation) as key) as key
            );
            execute format('select * from split.%I(false)', 'sync_' || made.name);
        exception
            when others then
                table_name := made.name;
                problem := sqlerrm;
                return next;
        end;
    end loop;
end
$try$;

-- The column that is a table's primary key.
create or replace function split.key_of(relation regclass)
returns name
language sql
stable
set search_path = pg_catalog, pg_temp
as $key$
    select attname from pg_index
    inner join pg_attribute on attrelid = indrelid and attnum = indkey[0]
    where indrelid = relation and indisprimary
$key$;

-- The query of the rows of a table that would lose something if its model's rows took their place:
-- a value of the model's that differs, or a value in an own column that an insert would not give.
--
-- Values are compared by binary image, since types such as json have no `=`, and that of others,
-- such as box, is coarser than the value. Only a numeric may have another scale: 5 and 5.00.
create or replace function split.unlike_rows(made_name text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $unlike$
declare
    made record;
    shape record;
begin
    select tables.*, table_oid::regclass as relation, quote_ident(split.key_of(table_oid)) as key
    into strict made
    from split.service_tables as tables
    where table_name = made_name;

    with recursive

    base as (
        select attnum, atttypid as type from pg_attribute where attrelid = made.relation and attnum > 0
        union all
        select attnum, typbasetype from base inner join pg_type on pg_type.oid = type where typtype = 'd'
    ),

    columns as (
        select
            attname, attribute.attnum,
            format_type(atttypid, atttypmod) as type,
            objects.name is not null as is_modelled,
            'numeric'::regtype in (select type from base where base.attnum = attribute.attnum) as is_numeric,
            replace(split_part(objects.definition, ' not null', 1), ' identity', '')
            = format_type(atttypid, atttypmod) as is_alike,
            coalesce(case when split.is_constant(attrdef.adbin) then pg_get_expr(adbin, adrelid) end, 'null') as given
        from pg_attribute as attribute
        left join pg_attrdef as attrdef on adrelid = attrelid and adnum = attribute.attnum
        left join split.made_objects as objects
            on objects.table_name = made_name and objects.kind = 'column' and objects.name = attname
        where
            attrelid = made.relation and attribute.attnum > 0 and not attisdropped
            and (attgenerated = '' or objects.name is not null)
    ),

    sides as (
        select
            attnum,
            is_modelled and is_alike and is_numeric as by_value,
            case
                when not is_modelled or is_alike then format('actual.%I', attname)
                else format('actual.%I::text', attname)
            end as actual,
            case
                when not is_modelled then format('(%s)::%s', given, type)
                when is_alike then format('expected.%I', attname)
                else format('expected.%I::text', attname)
            end as expected
        from columns
    )

    select
        string_agg(actual, ', ' order by attnum) filter (where not by_value) as actual,
        string_agg(expected, ', ' order by attnum) filter (where not by_value) as expected,
        string_agg(format(' or %s is distinct from %s', actual, expected), '') filter (where by_value) as by_value
    into shape
    from sides;

    return format(
        $query$
            select actual.*
            from (select * from %s where %s) as actual
            left join (%s
            ) as expected on actual.%s = expected.%s
            where
                expected.%s is null
                or record_image_ne(row(%s), row(%s))%s
        $query$,
        made.relation, made.owned_rows, made.definition, made.key, made.key, made.key,
        shape.actual, shape.expected, shape.by_value
    );
end
$unlike$;

-- Whether a default gives the same value each time, and calls no function but PostgreSQL's own.
create or replace function split.is_constant(expression pg_node_tree)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $constant$
    select
        expression::text !~ '\{(NEXTVALUEEXPR|SQLVALUEFUNCTION|COERCETODOMAIN|COERCEVIAIO)'
        and not exists (
            select from regexp_matches(expression::text, ':(?:op)?funcid (\d+)', 'g') as called (oids)
            left join pg_proc on pg_proc.oid = oids[1]::oid
            where pg_proc.oid is null or pg_proc.oid >= 16384 or provolatile <> 'i'
        )
$constant$;

-- Tables that an earlier version has made.
select split.note_made(tables.table_name)
from split.service_tables as tables
inner join pg_catalog.pg_class as class on class.oid = tables.table_oid
where not exists (
    select from split.made_objects as objects where objects.table_name = tables.table_name
);
