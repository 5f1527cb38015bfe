-- Rows that are about to be replaced or deleted although somebody may have no other copy of them.
create table if not exists split.quarantined (
    kept_in text primary key,
    table_name text not null,
    rows bigint not null,
    transaction xid8 not null default pg_current_xact_id(),
    at timestamptz not null default clock_timestamp(),
    is_latest boolean not null default false
);
comment on table split.quarantined is
'Tables of the schema audit that hold rows as they were before something replaced or deleted them;'
' `is_latest` if the last rollback made them.';

-- split.quarantine() copies rows to a new table of the schema `audit`.
--
-- | argument or result | meaning                                                           |
-- |--------------------|-------------------------------------------------------------------|
-- | original           | the table that they are from, without its schema                  |
-- | query              | gives the rows; $1 is `keys`                                      |
-- | label              | ends the new table's name; the time, if null                      |
-- | keys               | see query                                                         |
-- | why                | the new table's comment                                           |
-- | kept_in            | the new table, without its schema; null if there is no such row   |
-- | rows               | how many there are                                                |
--
-- The caller replaces the rows in the same transaction, so that one that fails or is killed leaves
-- no copy, and its repetition makes one.
create or replace function split.quarantine(
    original text, query text, why text, label text, keys text[], out kept_in text, out rows bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $quarantine$
declare
    name text := left(original, 40) || '_'
        || coalesce(label, to_char(clock_timestamp() at time zone 'utc', 'YYYYMMDD"_"HH24MISS'));
    number integer := 1;
begin
    if to_regnamespace('audit') is null then
        create schema audit;
    end if;
    kept_in := name;
    while to_regclass(format('audit.%I', kept_in)) is not null loop
        number := number + 1;
        kept_in := name || '_' || number;
    end loop;
    execute format('create table audit.%I as %s', kept_in, query) using keys;
    get diagnostics rows = row_count;
    if rows = 0 then
        execute format('drop table audit.%I', kept_in);
        kept_in := null;
        return;
    end if;
    execute format('comment on table audit.%I is %L', kept_in, why);
    insert into split.quarantined (kept_in, table_name, rows)
    values (quarantine.kept_in, quarantine.original, quarantine.rows);
end
$quarantine$;
