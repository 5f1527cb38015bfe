{#
    split.keep_unlike(label): lays aside what the service has written and the monolith can't hold.

    | returns    |                                                                 |
    |------------|-----------------------------------------------------------------|
    | table_name | a table of the service                                          |
    | kept_in    | the table of the schema `audit` that its rows were copied to    |
    | rows       | how many                                                        |

    Called by a rollback, before the service's tables follow the monolith again: then a row is what
    the monolith's yields, and whatever else it was would be gone, such as the moment at which a
    message was read. What is equal, as 5 and 5.00 are, is no loss. The mirror has to be seen as it was before anybody wrote
    the monolith again. Reads mirror and tables once; makes no table for nothing.
#}
{% macro create_keep_function() %}
    create or replace function split.keep_unlike(label text)
    returns table (table_name text, kept_in text, rows bigint)
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $keep$
    declare
        made record;
    begin
        for made in
            select
                tables.*,
                tables.table_oid::regclass as relation,
                quote_ident(key.attname) as key,
                shape.actual,
                shape.expected
            from split.service_tables as tables
            inner join pg_index as index on index.indrelid = tables.table_oid and index.indisprimary
            inner join pg_attribute as key
                on key.attrelid = tables.table_oid and key.attnum = index.indkey[0]
            cross join lateral (
                select
                    string_agg(format('actual.%I', attname), ', ' order by attnum) as actual,
                    string_agg(format('expected.%I', attname), ', ' order by attnum) as expected
                from pg_attribute
                where attrelid = tables.table_oid and attnum > 0 and not attisdropped
            ) as shape
            where tables.owned_rows <> 'false'
            order by tables.table_name
        loop
            table_name := made.table_name;
            kept_in := format('%s_%s', made.table_name, label);
            execute format(
                $query$
                    create table audit.%I as
                    select actual.*
                    from (select * from %s where %s) as actual
                    left join (%s) as expected on actual.%s = expected.%s
                    where
                        row(%s) is distinct from row(%s)
                $query$,
                kept_in, made.relation, made.owned_rows, made.definition, made.key, made.key,
                made.actual, made.expected
            );
            get diagnostics rows = row_count;
            if rows = 0 then
                execute format('drop table audit.%I', kept_in);
            else
                execute format(
                    'comment on table audit.%I is %L', kept_in,
                    'Rows as the service had them before a rollback; the monolith could not hold all of them.'
                );
                return next;
            end if;
        end loop;
    end
    $keep$;
{% endmacro %}
