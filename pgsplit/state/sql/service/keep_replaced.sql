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

-- split.keep_pending() copies rows of the mirror of the service's own tables to the schema `audit`:
-- those that have changed, and that no sync could apply, before the mirror is dropped.
create or replace function split.keep_pending()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep$
declare
    schema text := (select service.mirror from split.service);
    made record;
begin
    for made in
        with

        pending as (
            select
                mirrored.table_name, changed.key_name, changed.key,
                coalesce(attribute.attname is not null and changed.key is not null, false) as is_known
            from split.changes as changed
            inner join split.mirror_tables as mirrored
                on changed.changed_table = schema || '.' || mirrored.table_name
            left join pg_attribute as attribute
                on
                    attribute.attrelid = to_regclass(format('%I.%I', schema, mirrored.table_name))
                    and attribute.attname = changed.key_name
                    and attribute.attnum > 0
            where to_regclass(format('%I.%I', schema, mirrored.table_name)) is not null
        )

        select
            table_name, array_agg(distinct key) as keys,
            -- All rows, if a key is null or computed from several columns.
            case
                when bool_and(is_known)
                    then string_agg(distinct format('%I::text = any($1)', key_name), ' or ')
                else 'true'
            end as condition
        from pending
        group by table_name
    loop
        perform split.quarantine(
            made.table_name,
            format('select * from %I.%I where %s', schema, made.table_name, made.condition),
            'Rows as the service had them in its mirror before that was copied again.',
            null,
            made.keys
        );
    end loop;
end
$keep$;
