{#
    capture_mirror(): statements that make every mirror table record its changes in split.changes.

    For each mirror table that has landed here:

    - a trigger that replication fires, and an application does not: it records the row's keys
      before and after, so that a row that moves is followed from where it was. TRUNCATE records
      a null key, which means every row;
    - a trigger that applications fire, and replication does not: it refuses. What is edited here
      by hand would be lost to the monolith;
    - the indexes that the models ask for in `config.meta.mirror_indexes`.

    Idempotent. Triggers and indexes are made only where they are missing, since both wait for the
    transaction that replication has under way; functions are replaced without waiting.
#}
{% macro capture_mirror() %}
    {% set keys = {} %}
    {% for source in graph.sources.values()
        if target.name == source.config.meta.owner or target.name in source.config.meta.get('shared', {}) %}
        {% do keys.update({pgsplit.monolith_schema() ~ '.' ~ source.name: ['id']}) %}
    {% endfor %}
    {% set indexes = [] %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' and node.config.materialized == 'service_table' %}
        {% for followed in pgsplit.followed_tables(node) %}
            {% do keys[followed.table].append(followed.key) %}
        {% endfor %}
        {% for mirror, wanted in node.config.meta.get('mirror_indexes', {}).items() %}
            {% for key in wanted %}
                {% do indexes.append({'mirror': mirror, 'key': key}) %}
            {% endfor %}
        {% endfor %}
    {% endfor %}

    {% for table, names in keys.items() %}
        {{ pgsplit.create_capture_function(table, names) }}
        select split.watch('{{ table.split('.')[1] }}');
    {% endfor %}

    {% for index in indexes %}
        select split.index_mirror('{{ index.mirror }}', '{{ index.key }}', $key${{ pgsplit.followed_key(index.key) }}$key$);
    {% endfor %}
{% endmacro %}


{#
    The functions that capture_mirror() calls; tables are named without the mirror's schema.

    | function                             | what it does                                          |
    |--------------------------------------|-------------------------------------------------------|
    | split.watch(mirror)                  | puts the triggers on a mirror table                   |
    | split.index_mirror(mirror, name, key)| builds an index on a mirror table, and its statistics |
    | split.refuse_edits()                 | the trigger function that refuses all but split.sync()|

    A table that has not landed yet is passed over: the next build finds it.
#}
{% macro create_capture_functions() %}
    create or replace function split.refuse_edits()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $refuse$
    begin
        if current_setting('split.is_syncing', true) = 'on' then
            return null;
        end if;
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                '%I.%I is a mirror of the monolith''s table: replication writes it, and nobody else.',
                tg_table_schema, tg_table_name
            ),
            hint = 'Change the row in the monolith, and it changes here.';
    end
    $refuse$;

    create or replace function split.watch(mirror text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $watch$
    declare
        relation regclass := to_regclass(format('%I.%I', '{{ pgsplit.monolith_schema() }}', mirror));
    begin
        if relation is null or exists (
            select from pg_trigger where tgrelid = relation and tgname = 'split_capture'
        ) then
            return;
        end if;
        execute format(
            'create trigger split_capture after insert or update or delete on %s'
            ' for each row execute function split.%I()', relation, 'capture_{{ pgsplit.monolith_schema() }}_' || mirror
        );
        execute format(
            'create trigger split_capture_truncate after truncate on %s'
            ' for each statement execute function split.%I()', relation, 'capture_{{ pgsplit.monolith_schema() }}_' || mirror
        );
        execute format('alter table %s enable replica trigger split_capture', relation);
        execute format('alter table %s enable replica trigger split_capture_truncate', relation);
        execute format(
            'create trigger split_refuse_edits before insert or update or delete or truncate on %s'
            ' for each statement execute function split.refuse_edits()', relation
        );
    end
    $watch$;

    create or replace function split.index_mirror(mirror text, name text, key text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $index$
    declare
        relation regclass := to_regclass(format('%I.%I', '{{ pgsplit.monolith_schema() }}', mirror));
        index_name text := format('split_%s_%s', mirror, name);
    begin
        if relation is null or to_regclass(format('%I.%I', '{{ pgsplit.monolith_schema() }}', index_name)) is not null then
            return;
        end if;
        execute format('create index %I on %s ((%s))', index_name, relation, key);
        execute format('analyze %s', relation);
    end
    $index$;
{% endmacro %}
