-- The statements that give a table the shape that its model has now.
--
-- | argument    | example                          |                                          |
-- |-------------|----------------------------------|------------------------------------------|
-- | made_name   | payments                         | a table that this project made           |
-- | query       | select id, … from …              | the model's SQL, which has the types     |
-- | columns     | {"id": true, "note": false}      | which of its columns are not null        |
-- | constraints | {"payments_check": "check (…)"}  | the model's, those made before, too      |
--
-- A constraint that was made and is gone is no matter of the model: split.own_changes() has it.
create or replace function split.lacks(made_name text, query text, columns jsonb, constraints jsonb)
returns setof text
language plpgsql
set search_path = pg_catalog, pg_temp
as $lacks$
declare
    relation regclass := (
        select table_oid::regclass from split.service_tables where service_tables.table_name = made_name
    );
begin
    return query
    select case
        when attname is null
            then format(
                'alter table %s add column %I %s%s;', relation, wanted.name, wanted.type,
                case when (columns -> wanted.name)::boolean then ' not null' else '' end
            )
        when format_type(atttypid, atttypmod) <> wanted.type
            then format(
                'alter table %s alter column %I type %s using %I::%s;',
                relation, wanted.name, wanted.type, wanted.name, wanted.type
            )
        else format(
            'alter table %s alter column %I %s not null;', relation, wanted.name,
            case when (columns -> wanted.name)::boolean then 'set' else 'drop' end
        )
    end
    from split.columns_of(query) as wanted
    left join pg_attribute on attrelid = relation and attname = wanted.name and not attisdropped
    where
        attname is null
        or format_type(atttypid, atttypmod) <> wanted.type
        or attnotnull <> (columns -> wanted.name)::boolean and not exists (
            select from split.made_objects as objects
            where objects.table_name = made_name and objects.kind = 'column' and objects.name = wanted.name
                and objects.definition like '% not null' = (columns -> wanted.name)::boolean
        )
    union all
    select format('alter table %s add constraint %I %s;', relation, wanted.key, wanted.value)
    from jsonb_each_text(constraints) as wanted
    where
        not exists (select from pg_constraint where conrelid = relation and conname = wanted.key)
        and not exists (
            select from split.made_objects as objects
            where objects.table_name = made_name and objects.kind = 'constraint' and objects.name = wanted.key
        );
end
$lacks$;

-- Notes a table's columns as those that its model has now, and the model's new constraints, or
-- refuses what a rollback could not carry. The caller has recorded the model, and holds split.turn.
create or replace function split.take_up(made_name text, constraints text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $take_up$
#variable_conflict use_column
declare
    made record;
    problem text;
begin
    select * into strict made from split.service_tables where table_name = made_name;
    delete from split.made_objects as objects
    where
        objects.table_name = made_name and objects.kind = 'column'
        and objects.name not in (select modelled.name from split.columns_of(made.definition) as modelled);
    insert into split.made_objects
    select made_name, found.kind, found.name, found.definition
    from split.objects_of(made.table_oid::regclass) as found
    where
        found.kind = 'column'
        and found.name in (select modelled.name from split.columns_of(made.definition) as modelled)
        or found.kind = 'constraint' and found.name = any(constraints)
    on conflict do nothing;

    select string_agg(concat(what, E'.\n  hint:  ', hint), E'\n') into problem
    from split.own_changes() where table_name = made_name and harm in ('forward', 'reverse');
    if problem is null then
        begin
            select string_agg(tried.problem, E'\n') into problem
            from split.try_to_follow() as tried where tried.table_name = made_name;
            raise exception using errcode = 'SPL00';
        exception
            when sqlstate 'SPL00' then
                null;  -- it has only tried
        end;
    end if;
    if problem is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'A rollback could not carry %s as its model has it now. Nothing was changed. %s', made_name, problem
            );
    end if;
end
$take_up$;
