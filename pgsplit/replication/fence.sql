create table if not exists split.gates (
    service text primary key,
    is_open boolean not null default true,
    opens_at timestamptz,
    leads_to text not null default ''
);
comment on table split.gates is
'Whether a service''s tables may be written here; a closed one opens by itself at opens_at.';

-- Takes a row lock, since a repeatable-read transaction that began before the fence closed still
-- sees it open; the lock gives that one a serialization failure. A cascade from another table fires
-- statement triggers even if it touches no row, so then only the row triggers refuse.
create or replace function split.guard() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $guard$
declare
    gate record;
begin
    if tg_level = 'STATEMENT' and tg_op <> 'TRUNCATE' and pg_trigger_depth() > 1 then
        return null;
    end if;
    select * into gate from split.gates where service = tg_argv[0] for share;
    if not found then
        raise exception using
            errcode = 'serialization_failure',
            message = format('%I.%I may have moved since this transaction began.',
                tg_table_schema, tg_table_name),
            hint = 'Try again in a new transaction.';
    elsif gate.is_open or gate.opens_at <= clock_timestamp() then
        return case when tg_level = 'ROW' then coalesce(new, old) end;
    elsif gate.opens_at is not null then
        raise exception using
            errcode = 'read_only_sql_transaction',
            message = format('%I.%I is moving to the %s and can''t be written just now.',
                tg_table_schema, tg_table_name, gate.leads_to),
            hint = 'Try again in a moment.';
    end if;
    raise exception using
        errcode = 'read_only_sql_transaction',
        message = format('%I.%I is written in the %s now, and can''t be written here.',
            tg_table_schema, tg_table_name, gate.leads_to),
        hint = format('Connect where connections/%s.env says that writes go.', tg_argv[1]);
end
$guard$;
