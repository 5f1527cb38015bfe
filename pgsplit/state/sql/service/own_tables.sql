-- split.enforce() adds one constraint to a table, or says which rows break it.
--
-- | argument   | example                                                         |
-- |------------|-----------------------------------------------------------------|
-- | relation   | shop.payments                                                   |
-- | name       | payments_amount_check                                           |
-- | definition | check (amount >= 0)                                             |
-- | offenders  | select * from shop.payments where (amount >= 0) is false        |
-- | key        | {id}                                                            |
--
-- PostgreSQL's own message for a constraint added to existing rows names no row. This one names
-- the table, the constraint, how many rows break it, and the keys and values of the first three.
-- Runs in the caller's transaction, and takes the lock that `alter table` takes.
create or replace function split.enforce(
    relation regclass, name text, definition text, offenders text, key text[]
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    broken bigint;
    samples text;
    complaint text;
begin
    execute format('alter table %s add constraint %I %s', relation, name, definition);
exception
    when unique_violation or check_violation or foreign_key_violation or not_null_violation then
        get stacked diagnostics complaint = pg_exception_detail;
        execute format(
            $query$
                select
                    count(*),
                    string_agg(
                        (
                            select string_agg(format('%%s = %%s', field.key, field.value), ', ')
                            from jsonb_each(to_jsonb(offender)) as field
                            where field.key = any($1)
                        ),
                        '; '
                    ) filter (where position <= 3)
                from (select *, row_number() over () as position from (%s) as found) as offender
            $query$,
            offenders
        )
        into broken, samples
        using key;

        raise exception using
            errcode = sqlstate,
            message = format(
                '%s: %s row(s) break the constraint %s, %s. First: %s',
                relation, broken, name, definition, samples
            ),
            detail = complaint,
            hint = format(
                'Fix the rows in the monolith and build again, or loosen %s in the model''s yml.',
                name
            );
end
$function$;

-- split.enforce_together() adds several constraints to a table in one statement, so that one scan
-- checks all rows. Only if some row breaks one does it add them one by one, to say which and where.
--
-- `constraints` is an array of objects with the arguments of split.enforce(): name, definition,
-- offenders, key.
create or replace function split.enforce_together(relation regclass, constraints jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
begin
    execute format(
        'alter table %s %s',
        relation,
        (
            select string_agg(format('add constraint %I %s', one ->> 'name', one ->> 'definition'), ', ')
            from jsonb_array_elements(constraints) as one
        )
    );
exception
    when check_violation then
        perform split.enforce(
            relation,
            one ->> 'name',
            one ->> 'definition',
            one ->> 'offenders',
            array(select jsonb_array_elements_text(one -> 'key'))
        )
        from jsonb_array_elements(constraints) as one;
end
$function$;

-- A trigger function that refuses to change rows that follow another service's. Its argument is the
-- condition on rows that belong to this service.
create or replace function split.refuse_followed()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $refuse$
declare
    is_own boolean;
begin
    execute format('select bool_and((%s) is true) from (select $1.* union all select $2.*) as touched', tg_argv[0])
    into is_own
    using coalesce(old, new), coalesce(new, old);
    if is_own then
        return coalesce(new, old);
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format(
            'This row of %I.%I follows a row of another service: only split.sync() writes it.',
            tg_table_schema, tg_table_name
        ),
        hint = format('Rows that may be written here: %s.', tg_argv[0]);
end
$refuse$;

-- A trigger function that refuses another key for a row that other services refer to by it.
create or replace function split.refuse_new_key()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $refuse$
begin
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format(
            'Other services may refer to this row of %I.%I by its %I, which stays as it is.',
            tg_table_schema, tg_table_name, tg_argv[0]
        ),
        hint = 'Insert another row, make everybody refer to that one, then delete this one.';
end
$refuse$;

-- Puts the triggers that record changes on the service's tables, and lets its login write them. The
-- switch calls it through split.prepare_switch(), which dbt makes; nobody writes the tables before,
-- so no trigger has to wait. The triggers ignore what split.sync() writes, so nothing echoes.
-- Idempotent.
create or replace function split.record_writes(login text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $record$
declare
    made record;
    is_not_sync text := split.unless_syncing();
begin
    perform split.recognize_tables();
    perform split.capture_own_tables();
    for made in
        select table_oid::regclass as relation, owned_rows from split.service_tables
        where owned_rows <> 'false'
        order by table_name
    loop
        execute format('grant insert, update, delete on %s to %I', made.relation, login);
        if made.owned_rows <> 'true' and not exists (
            select from pg_trigger where tgrelid = made.relation and tgname = 'split_refuse_followed'
        ) then
            execute format(
                'create trigger split_refuse_followed before insert or update or delete on %s'
                ' for each row %s execute function split.refuse_followed(%L)',
                made.relation, is_not_sync, made.owned_rows
            );
        end if;
    end loop;
end
$record$;
