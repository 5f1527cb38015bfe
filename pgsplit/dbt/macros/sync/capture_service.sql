{#
    capture_service(): functions that make a service's own tables record what is written there.

    | function                     | what it does                                                    |
    |------------------------------|-----------------------------------------------------------------|
    | split.capture_SCHEMA_TABLE() | records the keys that the reverse models follow                  |
    | split.prepare_switch(login)  | puts the triggers on the tables, and lets the login write them    |
    | split.refuse_followed(owned) | refuses a row that goes on following another service's           |
    | split.refuse_new_key(key)    | refuses another key for a row that other services refer to by it |

    The triggers are made by the switch, not before: until then nobody writes these tables. What
    split.sync() itself writes is not recorded, so nothing echoes. Idempotent; a trigger waits for
    whoever writes the table, of whom there is none yet.
#}
{% macro capture_service() %}
    {% set keys, keeps = {}, {} %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' and pgsplit.is_reverse(node) %}
        {% for followed in pgsplit.followed_tables(node) %}
            {% do keys.setdefault(followed.table, []).append(followed.key) %}
            {% set mirrored = graph.sources.values() | selectattr('name', 'equalto', node.alias) | first %}
            {% if mirrored.config.meta.get('shared') %}
                {% do keeps.update({followed.table: followed.key}) %}
            {% endif %}
        {% endfor %}
    {% endfor %}
    {% for table, names in keys.items() %}
        {{ pgsplit.create_capture_function(table, names, keeps.get(table)) }}
    {% endfor %}

    create or replace function split.refuse_followed()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $refuse$
    declare
        is_own boolean;
    begin
        execute format('select bool_and((%s) is true) from (select $1.* union all select $2.*) as touched', tg_argv[0])
        into is_own
        using coalesce(old, new), coalesce(new, old);
        if is_own then
            return coalesce(new, old);
        end if;
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'This row of %I.%I follows a row of another service: split.sync() writes it, and nobody else.',
                tg_table_schema, tg_table_name
            ),
            hint = format('Rows that may be written here: %s.', tg_argv[0]);
    end
    $refuse$;

    create or replace function split.refuse_new_key()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $refuse$
    begin
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'Other services may refer to this row of %I.%I by its %I, which stays as it is.',
                tg_table_schema, tg_table_name, tg_argv[0]
            ),
            hint = 'Insert another row, let those who refer to this one refer to that, and delete this one then.';
    end
    $refuse$;

    create or replace function split.prepare_switch(login text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $prepare$
    declare
        made record;
        is_not_sync text := 'when (current_setting(''split.is_syncing'', true) is distinct from ''on'')';
    begin
        for made in
            select followed::regclass as relation, replace(followed, '.', '_') as name
            from (select distinct unnest(follows) as followed from split.mirror_tables) as tables
            where not exists (
                select from pg_trigger where tgrelid = followed::regclass and tgname = 'split_capture'
            )
            order by followed
        loop
            execute format(
                'create trigger split_capture after insert or update or delete on %s for each row %s'
                ' execute function split.%I()', made.relation, is_not_sync, 'capture_' || made.name
            );
            execute format(
                'create trigger split_capture_truncate after truncate on %s for each statement %s'
                ' execute function split.%I()', made.relation, is_not_sync, 'capture_' || made.name
            );
        end loop;

        for made in
            select table_oid::regclass as relation, owned_rows from split.service_tables
            where owned_rows <> 'false'
            order by table_name
        loop
            execute format('grant insert, update, delete on %s to %I', made.relation, login);
            if made.owned_rows <> 'true' and not exists (
                select from pg_trigger where tgrelid = made.relation and tgname = 'split_refuse_followed'
            ) then
                execute format(
                    'create trigger split_refuse_followed before insert or update or delete on %s'
                    ' for each row %s execute function split.refuse_followed(%L)',
                    made.relation, is_not_sync, made.owned_rows
                );
            end if;
        end loop;

        {% for table, key in keeps.items() %}
            if not exists (
                select from pg_trigger where tgrelid = '{{ table }}'::regclass and tgname = 'split_refuse_new_key'
            ) then
                create trigger split_refuse_new_key before update on {{ table }}
                for each row when (old.{{ key }} is distinct from new.{{ key }})
                execute function split.refuse_new_key('{{ key }}');
            end if;
        {% endfor %}
    end
    $prepare$;
{% endmacro %}
