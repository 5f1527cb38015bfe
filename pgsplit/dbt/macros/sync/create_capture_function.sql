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

    It never fails what the service writes: if the service has renamed or dropped a key of its own
    table, every row is recorded, and the next sync says what is wrong.
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
    {% if at != 'null' %}
    declare
        found split.changes[];
    {% endif %}
    begin
        if tg_op = 'TRUNCATE' then
            insert into split.changes (changed_table, key_name, key, at)
            values {% for name in keys %}('{{ table }}', '{{ name }}', null, {{ at }}){{ ', ' if not loop.last }}{% endfor %};
        else
            {% if keeps %}
                if tg_op = 'DELETE' then
                    insert into split.deleted_rows (table_name, key, row)
                    select '{{ table.split('.')[1] }}', gone ->> '{{ keeps }}', gone from to_jsonb(old) as gone
                    where gone ->> '{{ keeps }}' is not null;
                end if;
            {% endif %}
            {% if at == 'null' %}
                insert into split.changes (changed_table, key_name, key, at)
                select captured.* from ({{ pgsplit._captured_keys(table, keys, at) }}) as captured;
            {% else %}
                begin
                    found := array(
                        select row(captured.*)::split.changes from ({{ pgsplit._captured_keys(table, keys, at) }}) as captured
                    );
                exception
                    when undefined_column then
                        found := array[{% for name in keys %}row('{{ table }}', '{{ name }}', null, {{ at }})::split.changes{{ ', ' if not loop.last }}{% endfor %}];
                end;
                insert into split.changes select * from unnest(found);
            {% endif %}
        end if;
        return null;
    end
    $capture$;
{% endmacro %}


{% macro _captured_keys(table, keys, at) %}
    select distinct '{{ table }}'::text, keys.key_name, keys.key, {{ at }}::timestamptz
    from (select old.* union all select new.*) as touched
    cross join lateral (
        values {% for name in keys %}('{{ name }}', ({{ pgsplit.followed_key(name) }})::text){{ ', ' if not loop.last }}{% endfor %}
    ) as keys (key_name, key)
    where keys.key is not null
{%- endmacro %}
