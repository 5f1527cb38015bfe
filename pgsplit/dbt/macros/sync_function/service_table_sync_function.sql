{#
    service_table_sync_function(relation, sql): creates split.sync_MODEL(_whole), which makes the
    table equal to the model's SQL for the rows that captured changes concern.

    | argument or result | meaning                                                   |
    |--------------------|-----------------------------------------------------------|
    | _whole             | compare all rows, whatever was captured                   |
    | _upserted          | rows inserted or updated                                  |
    | _deleted           | rows that the model no longer yields                      |

    The function collects the keys that have changed, finds the rows that differ, and writes only
    those. When most of the table has changed, it compares the whole table, which is cheaper.

    The keys are constants to the planner, so it finds them through the indexes of what the model
    reads, below joins, unions and groups; with `_whole` it leaves the restriction out. The caller
    defers foreign keys. Names begin with an underscore so that none is a column's.
#}
{% macro service_table_sync_function(relation, sql) %}
    {{ pgsplit._sync_function('sync_' ~ model.name, relation, sql, pgsplit._sync_terms(relation)) }}
{% endmacro %}


{#
    share_function(relation, sql, columns, tables): the same, called split.share_MODEL(), for only some
    columns of a table of the mirror, which its reverse model makes from only some of the tables.
#}
{% macro share_function(relation, sql, columns, tables) %}
    {{ pgsplit._sync_function('share_' ~ model.name, relation, sql, pgsplit._sync_terms(relation, columns, tables)) }}
{% endmacro %}


{% macro _sync_function(name, relation, sql, sync) %}
    create or replace function split.{{ adapter.quote(name) }}(
        _whole boolean, out _upserted bigint, out _deleted bigint
    )
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_custom_plan
    set client_min_messages = warning
    as $sync$
    #variable_conflict use_column
    declare
        _stale boolean := _whole;
        -- More keys than this cost more than comparing the whole table, or what it follows, does.
        _most real := (
            select greatest(max(reltuples) / 8, 10000) from pg_class
            where oid in (
                {{ dbt.string_literal(relation) }}::regclass
                {%- for one in sync.followed -%}
                    , '{{ one.table }}'::regclass
                {%- endfor %}
            )
        );
        _in_the_way bigint;
        _new bigint;
        {% for one in sync.followed %}
            _keys_{{ loop.index }} text[];
        {% endfor %}
        {% if sync.follows_other_columns %}
            _touched text[];
        {% endif %}
        {% if sync.is_followed %}
            _switched boolean := (select switched_at is not null from split.service);
        {% endif %}
    begin
        {{ pgsplit._sync_collect_keys(relation, sql, sync) }}
        {{ pgsplit._sync_find_difference(relation, sql, sync) }}
        select
            count(*) filter (where not _vanished),
            count(*) filter (where _vanished),
            count(*) filter (where _is_in_the_way),
            count(*) filter (where not _vanished and (_is_new or _is_in_the_way))
        into _upserted, _deleted, _in_the_way, _new
        from {{ sync.difference }};
        if _upserted = 0 and _deleted = 0 then
            return;
        end if;
        {{ pgsplit._sync_write_difference(relation, sync) }}
    end
    $sync$;
{% endmacro %}


{#
    _sync_terms(relation, columns, tables): the SQL terms that the parts of a sync function share, of all
    columns and followed tables, or of these.

    | output               | meaning                                                        |
    |----------------------|----------------------------------------------------------------|
    | columns, unique      | see sync_shape()                                               |
    | key                  | the primary key's column, quoted                               |
    | tombstone            | the column that gets the time when a row vanishes, or nothing  |
    | followed             | see followed_tables()                                          |
    | follows_other_columns| whether any followed column is not the primary key             |
    | is_touched           | a condition: the row holds one of the collected keys           |
    | is_followed          | a condition: the row is not the service's own                  |
    | shape, difference    | a query with the shape of the differing rows; their table      |
#}
{% macro _sync_terms(relation, columns=none, tables=none) %}
    {% set made = pgsplit.sync_shape(relation) %}
    {% set followed = pgsplit.followed_tables(model) %}
    {% if columns is not none %}
        {% do made.update({'columns': columns, 'unique': made.unique | select('in', columns) | list}) %}
        {% set read = [] %}
        {% for one in followed if one.table.split('.')[1] in tables %}
            {% do read.append(one) %}
        {% endfor %}
        {% set followed = read %}
    {% endif %}
    {% set key = adapter.quote(made.key) %}
    {% set shape %}
        select {{ key }} as _key, false as _vanished, false as _is_in_the_way, false as _is_new, {{ pgsplit.quoted(made.columns) }}
        from {{ relation }}
    {% endset %}
    {% set is_touched %}
        {%- for one in followed -%}
            {{ adapter.quote(one.column) }} = any(_keys_{{ loop.index }}){{ ' or ' if not loop.last }}
        {%- endfor -%}
    {% endset %}
    {% set owned = 'false' if pgsplit.is_reverse(model) else pgsplit.owned_rows(model) %}
    {# A session keeps its temporary tables, so another shape needs another table. #}
    {% do return({
        'columns': made.columns,
        'unique': made.unique,
        'key': key,
        'tombstone': model.config.meta.get('tombstone'),
        'followed': followed,
        'follows_other_columns': followed | rejectattr('column', 'equalto', made.key) | list | length > 0,
        'is_touched': is_touched,
        'is_followed': ' and not (_switched and (' ~ owned ~ '))' if owned not in ('true', 'false') else '',
        'shape': shape,
        'difference': 'pg_temp.' ~ adapter.quote('difference_' ~ local_md5(shape ~ tojson(made))),
    }) %}
{% endmacro %}
