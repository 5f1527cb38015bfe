{#
    share(relation, sql, shared, is_completed): makes split.share_MODEL(), which keeps what others share
    of a table of the mirror once its owner is completed, and depends on nothing else.

    | argument     | meaning                                                        |
    |--------------|----------------------------------------------------------------|
    | sql          | the reverse model's compiled SQL                               |
    | shared       | see shared_by()                                                |
    | is_completed | it is used from now on: compare all rows, capture nothing else |

    The planner says which of the service's columns that takes; see split.share(). If the SQL can't be
    narrowed to them, dbt stops, and the transaction leaves nothing.
#}
{% macro share(relation, sql, shared, is_completed) %}
    {% set model_sql = [sql] %}
    {% set tables = [] %}
    {% for node in graph.nodes.values() if node.config.materialized == 'service_table' %}
        {% set name = api.Relation.create(database=node.database, schema=node.schema, identifier=node.alias) | string %}
        {% if name in sql %}
            {% do tables.append(node.alias) %}
            {% do model_sql.append(model_sql[-1] | replace(name, adapter.quote('made_' ~ node.alias))) %}
        {% endif %}
    {% endfor %}
    {% call statement('share') %}
        select split.share(
            {{ dbt.string_literal(relation.identifier) }},
            {{ dbt.string_literal(dbt.escape_single_quotes(model_sql[-1] | trim)) }},
            '{ {{- tables | map('tojson') | join(',') -}} }'::text[],
            {{ dbt.string_literal(tojson(shared)) ~ '::json' if shared else 'null' }}
        );
    {% endcall %}
    {% if shared %}
        {% set given = run_query(
            "select shared_definition, (select string_agg(distinct service_table, ',') from split.shared_reads as read"
            ~ " where read.table_name = known.table_name) from split.mirror_tables as known where table_name = "
            ~ dbt.string_literal(relation.identifier)
        ).rows[0] %}
        {% call statement('share_function') %}
            {{ pgsplit.share_function(relation, given[0], shared.keys() | list, given[1].split(',')) }}
        {% endcall %}
    {% endif %}
    {% if is_completed %}
        {% call statement('used_from_now') %}
            update split.mirror_tables set is_stale = true where table_name = {{ dbt.string_literal(relation.identifier) }};
            select split.keep_only_shared();
        {% endcall %}
    {% endif %}
{% endmacro %}


{# Whether a completed service's reverse model, and what others share by it, are as the last build left them. #}
{% macro is_shared_as_before(relation, sql, shared) %}
    {% set known = run_query(
        "select definition = " ~ pgsplit.service_table_definition(sql) ~ " and shared_definition is not null,"
        ~ " coalesce((select json_object_agg(column_name, to_json(services) order by place) from split.shared_columns as shared"
        ~ " where shared.table_name = tables.table_name)::text, '{}')"
        ~ " from split.mirror_tables as tables where table_name = " ~ dbt.string_literal(relation.identifier)
    ).rows %}
    {% do return(known | length == 1 and known[0][0] and fromjson(known[0][1]) == shared) %}
{% endmacro %}


{# Stops dbt if others would no longer get what they share of a table of the mirror. #}
{% macro assert_others_get_what_they_share(relation) %}
    {% set found = run_query(
        "select what, hint from split.shared_changes() where mirrored = " ~ dbt.string_literal(relation.identifier)
    ).rows %}
    {% if found %}
        {% set said = [] %}
        {% for one in found %}
            {% do said.append(one[0] ~ ".\n  hint:  " ~ one[1]) %}
        {% endfor %}
        {% do exceptions.raise_compiler_error(
            "Others would no longer get what they share. Nothing was changed.\n" ~ said | join('\n')
            ~ "\n  hint:  or have " ~ model.original_file_path ~ " read what there is now, and build again"
        ) %}
    {% endif %}
{% endmacro %}
