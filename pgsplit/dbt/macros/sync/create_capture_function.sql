{#
    create_capture_function(table, keys): a trigger function that records a row's keys in split.changes.

    | argument | example             | meaning                                                |
    |----------|---------------------|--------------------------------------------------------|
    | table    | shop.payments       | the mirror's table, or the service's own               |
    | keys     | ['id']              | what the models follow of it: columns, or macros       |
    | keeps    | company_id          | its key, if a deleted row is to be kept: others share columns of it |

    It is called split.capture_SCHEMA_TABLE(). A row that moves from one key to another is recorded
    under both. TRUNCATE is recorded as a null key, which means every row. Runs as the schema's owner,
    since the service's login has no right to the schema `split`.
#}
{% macro create_capture_function(table, keys, keeps=none) %}
    {% set keys = keys | unique | sort %}
    {% set at = 'null' if table.startswith(pgsplit.monolith_schema() ~ '.') else 'clock_timestamp()' %}
    create or replace function split.{{ adapter.quote('capture_' ~ table.replace('.', '_')) }}()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $capture$
    begin
        if tg_op = 'TRUNCATE' then
            insert into split.changes (changed_table, key_name, key, at)
            values {% for name in keys %}('{{ table }}', '{{ name }}', null, {{ at }}){{ ', ' if not loop.last }}{% endfor %};
        else
            {% if keeps %}
                if tg_op = 'DELETE' then
                    insert into split.deleted_rows (table_name, key, row)
                    values ('{{ table.split('.')[1] }}', old.{{ keeps }}, to_jsonb(old));
                end if;
            {% endif %}
            insert into split.changes (changed_table, key_name, key, at)
            select distinct '{{ table }}', keys.key_name, keys.key, {{ at }}::timestamptz
            from (select old.* union all select new.*) as touched
            cross join lateral (
                values {% for name in keys %}('{{ name }}', ({{ pgsplit.followed_key(name) }})::text){{ ', ' if not loop.last }}{% endfor %}
            ) as keys (key_name, key)
            where keys.key is not null;
        end if;
        return null;
    end
    $capture$;
{% endmacro %}
