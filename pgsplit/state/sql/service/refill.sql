-- split.refill() gives a column that was dropped and added again the values that the mirror has.
--
-- | argument    | example                                                       |
-- |-------------|---------------------------------------------------------------|
-- | made_name   | payments                                                      |
-- | made_column | amount                                                        |
--
-- Returns how many rows it has filled. Only null gets a value; what was written since stays.
create or replace function split.refill(made_name text, made_column text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $refill$
declare
    made record;
    same_row text;
    filled bigint;
begin
    select tables.table_oid::regclass as relation, tables.definition into strict made
    from split.service_tables as tables
    where tables.table_name = made_name;
    select string_agg(format('here.%1$I = made.%1$I', attname), ' and ') into same_row
    from pg_index inner join pg_attribute on attrelid = indrelid and attnum = any(indkey)
    where indrelid = made.relation and indisprimary;
    if same_row is null then
        raise exception '% has no primary key, by which its rows would be found', made.relation
        using hint = 'Restore the table from a backup: runner.py backups';
    end if;

    execute format(
        E'update %s as here set %I = made.%I from (%s\n) as made where %s and here.%I is null',
        made.relation, made_column, made_column, made.definition, same_row, made_column
    );
    get diagnostics filled = row_count;
    return filled;
end
$refill$;
