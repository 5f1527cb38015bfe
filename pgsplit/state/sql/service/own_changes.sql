-- split.own_changes() finds what is no longer as this project made it.
--
-- | returns    |                                                                     |
-- |------------|---------------------------------------------------------------------|
-- | table_name | a table that this project made                                      |
-- | what       | the change, for people                                              |
-- | harm       | none; later: rows may fail to be written some day; forward: a sync  |
-- |            | from the monolith fails or harms own rows; reverse: a sync to it    |
-- |            | fails, too; shared: others would no longer get what they share      |
-- | hint       | the statement that fixes it, or what becomes of it                  |
--
-- Of a completed service it finds what others share, and tables that a sync still writes.
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
            service.completed_at is not null as is_completed,
            quote_ident(pg_get_userbyid(nspowner)) as owner,
            nspowner,
            -- A restored dump has other oids until its next sync.
            service.database_oid = (
                select oid from pg_database where datname = current_database()
            ) as knows_oids,
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
        left join pg_class as in_place
            on in_place.oid = to_regclass(format('%I.%I', here.database, tables.table_name))
        left join pg_class as class
            on class.oid = case when here.knows_oids then tables.table_oid else in_place.oid end
        -- From the completion on, its own tables are its team's.
        where not here.is_completed or tables.owned_rows <> 'true'
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
        || coalesce('; perhaps it is ' || quote_ident(renamed.name) || ' now', ''),
        'reverse',
        case
            when renamed.name is not null then format(
                'alter table %s rename column %I to %I;', gone.relation, renamed.name, gone.name
            )
            else format(
                'alter table %s add column %I %s; select split.refill(%L, %L);', gone.relation, gone.name,
                replace(gone.was, ' not null', ''), gone.table_name, gone.name
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

    -- What others share of a completed service's tables
    union all
    select changes.table_name, changes.what, 'shared', changes.hint from split.shared_changes() as changes
    order by 1, 2
$changes$;
