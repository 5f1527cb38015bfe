-- split.keep_replaced() copies rows of one of the service's tables to the schema `audit`, before a
-- comparison of the whole table replaces or deletes them. The generated sync functions call it.
--
-- | argument   | meaning                                                                    |
-- |------------|----------------------------------------------------------------------------|
-- | relation   | the table                                                                  |
-- | key        | its key's column, quoted                                                   |
-- | difference | the table with the `_key` of each row that differs                         |
--
-- The service may have been told that these rows are safe. Rows that always follow another service
-- are copies, and are not kept.
create or replace function split.keep_replaced(relation regclass, key text, difference text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep$
declare
    made record;
begin
    select tables.* into made from split.service_tables as tables
    inner join split.service on service.keeps_replaced
    where tables.table_oid = relation and tables.owned_rows <> 'false';
    if not found then
        return;
    end if;
    perform split.quarantine(
        made.table_name,
        format(
            'select * from %s where (%s) and %s in (select _key from %s)',
            relation, made.owned_rows, key, difference
        ),
        'Rows as the service had them before a comparison with the monolith replaced them.',
        null,
        null
    );
end
$keep$;
