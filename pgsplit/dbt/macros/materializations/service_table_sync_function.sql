{#
    service_table_sync_function(relation, sql): creates split.sync_MODEL(_whole), which makes the
    table equal to the model's SQL for the rows that captured changes concern.

    | argument or result | meaning                                                   |
    |--------------------|-----------------------------------------------------------|
    | _whole             | compare all rows, whatever was captured                   |
    | _upserted          | rows inserted or updated                                  |
    | _deleted           | rows that the model no longer yields                      |

    The model's own SQL, restricted to the keys, is compared with the table by binary image, so that
    1.0 and 1.00 differ and a row that is equal is not written to. A row whose unique values change
    is deleted and comes back, so that two rows may swap them. When most of the table has changed,
    comparing it whole is the cheaper way, and taken.

    Where a followed column is not the primary key, a row may leave one key for another: the table's
    rows are those that hold a key now or will. Of a table that is the service's in part, only the
    other rows are looked at once it is switched. A row of a table with a `tombstone` is not deleted:
    that column gets the time, and the row stays as it last was until it comes back.

    The keys are constants to the planner, which therefore finds them through the indexes of what
    the model reads, below joins, unions and groups; `_whole` makes it leave the restriction out.
    Foreign keys are the caller's to defer. Names begin with an underscore to keep clear of columns.
#}
{% macro service_table_sync_function(relation, sql) %}
    {% set made = pgsplit.sync_shape(relation) %}
    {% set key = adapter.quote(made.key) %}
    {% set followed = pgsplit.followed_tables(model) %}
    {% set shape %}
        select {{ key }} as _key, false as _vanished, false as _is_in_the_way, {{ pgsplit.quoted(made.columns) }}
        from {{ relation }}
    {% endset %}
    {# A session that lasts keeps its temporary tables: another shape is another table. #}
    {% set difference = 'pg_temp.' ~ adapter.quote('difference_' ~ local_md5(shape ~ tojson(made))) %}
    {% set is_touched %}
        {%- for one in followed -%}
            {{ adapter.quote(one.column) }} = any(_keys_{{ loop.index }}){{ ' or ' if not loop.last }}
        {%- endfor -%}
    {% endset %}
    {% set follows_other_columns = followed | rejectattr('column', 'equalto', made.key) | list | length > 0 %}
    {% set tombstone = model.config.meta.get('tombstone') %}
    {% set owned = 'false' if pgsplit.is_reverse(model) else pgsplit.owned_rows(model) %}
    {% set is_followed = ' and not (_switched and (' ~ owned ~ '))' if owned not in ('true', 'false') else '' %}

    create or replace function split.{{ adapter.quote('sync_' ~ model.name) }}(
        _whole boolean, out _upserted bigint, out _deleted bigint
    )
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_custom_plan
    set client_min_messages = warning
    as $sync$
    #variable_conflict use_column
    declare
        -- More keys than this cost more than comparing the whole table, or what it follows, does.
        _most real := (
            select greatest(max(reltuples) / 8, 10000) from pg_class
            where oid in (
                {{ dbt.string_literal(relation) }}::regclass
                {%- for one in followed -%}
                    , '{{ one.table }}'::regclass
                {%- endfor %}
            )
        );
        {% for one in followed %}
            _keys_{{ loop.index }} text[];
        {% endfor %}
        {% if follows_other_columns %}
            _touched text[];
        {% endif %}
        {% if is_followed %}
            _switched boolean := (select switched_at is not null from split.service);
        {% endif %}
    begin
        {% for one in followed %}
            select _whole or changed.is_whole, changed.keys
            into _whole, _keys_{{ loop.index }}
            from split.changed('{{ one.table }}', '{{ one.key }}', _most) as changed;
        {% endfor %}

        {% if follows_other_columns %}
            if not _whole then
                _touched := array(
                    select {{ key }} from ({{ sql }}) as expected where {{ is_touched }}
                    union
                    select {{ key }} from {{ relation }} where {{ is_touched }}
                );
            end if;
        {% endif %}

        create temporary table if not exists {{ difference }} on commit delete rows as
        {{ shape }}
        with no data;
        delete from {{ difference }};

        insert into {{ difference }}
        with expected as (
            select * from ({{ sql }}) as model
            where (_whole or {{ is_touched }}){{ is_followed }}
        ),

        actual as (
            select * from {{ relation }}
            where (_whole or {{ key ~ ' = any(_touched)' if follows_other_columns else is_touched }}){{ is_followed }}
        )

        select
            coalesce(expected.{{ key }}, actual.{{ key }}),
            expected.{{ key }} is null,
            actual.{{ key }} is not null
            and (
                {{ 'false' if tombstone else 'expected.' ~ key ~ ' is null' }}
                {% for name in made.unique %}
                    or actual.{{ adapter.quote(name) }} is distinct from expected.{{ adapter.quote(name) }}
                {% endfor %}
            ),
            {{ pgsplit.quoted(made.columns, 'expected') }}
        from expected
        full join actual on expected.{{ key }} = actual.{{ key }}
        where
            record_image_ne(row({{ pgsplit.quoted(made.columns, 'actual') }}), row({{ pgsplit.quoted(made.columns, 'expected') }}))
            {%- if tombstone %}
                and (expected.{{ key }} is not null or actual.{{ adapter.quote(tombstone) }} is null)
            {%- endif %};

        select count(*) filter (where not _vanished), count(*) filter (where _vanished)
        into _upserted, _deleted
        from {{ difference }};
        if _upserted = 0 and _deleted = 0 then
            return;
        end if;

        -- An array, because the planner takes it for short and looks its keys up.
        delete from {{ relation }}
        where {{ key }} = any(array(select _key from {{ difference }} where _is_in_the_way));

        {% if tombstone %}
            update {{ relation }}
            set {{ adapter.quote(tombstone) }} = clock_timestamp() at time zone 'utc'
            where {{ key }} = any(array(select _key from {{ difference }} where _vanished));
        {% endif %}

        insert into {{ relation }} ({{ pgsplit.quoted(made.columns) }})
        select {{ pgsplit.quoted(made.columns) }}
        from {{ difference }}
        where not _vanished
        on conflict ({{ key }}) do update
        set
            {% for name in made.columns if name != made.key %}
                {{ adapter.quote(name) }} = excluded.{{ adapter.quote(name) }}{{ ',' if not loop.last }}
            {% endfor %};
    end
    $sync$;
{% endmacro %}
