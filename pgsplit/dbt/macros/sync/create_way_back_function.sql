{#
    split.way_back_differs(mirror): rows of a mirror table that its reverse model would change.

    | returns    |                                                             |
    |------------|-------------------------------------------------------------|
    | id         | the row's id                                                |
    | difference | changed, missing (the model yields no such row), or added   |

    None, unless a model is wrong: that is what makes the way back safe. Compared by binary image, in
    one snapshot. Rows with a change that split.sync() has yet to carry over can't be judged, and are
    left out. Reads mirror and service tables once.
#}
{% macro create_way_back_function() %}
    create or replace function split.way_back_differs(mirror text)
    returns table (id text, difference text)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
    as $differs$
    declare
        model record;
    begin
        select * into strict model from split.mirror_tables where table_name = mirror;
        return query execute format(
            $query$
                with

                compared as (
                    select
                        coalesce(rebuilt.id, mirrored.id) as id,
                        case
                            when rebuilt.id is null then 'missing'
                            when mirrored.id is null then 'added'
                            else 'changed'
                        end as difference
                    from (%s) as rebuilt
                    full join {{ pgsplit.monolith_schema() }}.%I as mirrored on rebuilt.id = mirrored.id
                    where record_image_ne(row(rebuilt.*), row(mirrored.*))
                )

                select * from compared
                where not exists (
                    select from split.changes
                    where
                        (changes.key = compared.id or changes.key is null)
                        and changes.changed_table = any($1)
                )
            $query$,
            model.definition, mirror
        )
        using model.follows || format('{{ pgsplit.monolith_schema() }}.%s', mirror);
    end
    $differs$;
{% endmacro %}
