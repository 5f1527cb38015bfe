{#
    split.enforce(relation, name, definition, offenders, key): adds one constraint to a table.

    | argument   | example                                                                 |
    |------------|-------------------------------------------------------------------------|
    | relation   | payments_db.payments                                                    |
    | name       | payments_amount_check                                                   |
    | definition | check (amount >= 0)                                                     |
    | offenders  | select * from payments_db.payments where (amount >= 0) is false         |
    | key        | {id}                                                                    |

    PostgreSQL's own message for a constraint added to existing rows names no row. This one
    does: table, constraint, how many rows, and the keys and values of the first three.
    Runs in the caller's transaction, and takes the lock that `alter table` takes.
#}
{% macro create_enforce_function() %}
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
                    'Mend the rows in the monolith and build again, or loosen %s in the model''s yml.',
                    name
                );
    end
    $function$;
{% endmacro %}
