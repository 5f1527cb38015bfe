{#
    service_table_made(relation, sql): what is known of a service table before it is built.

    | output              | meaning                                                      |
    |---------------------|--------------------------------------------------------------|
    | is_ours             | this project made the table that bears the name              |
    | structure, built_at | as it was recorded then                                      |
    | is_other_definition | the model's SQL, or what it follows, is not what it was      |
    | is_following        | replication may change the mirror at any moment              |
    | switched_at         | since when the service writes its tables itself, or null     |
#}
{% macro service_table_made(relation, sql) %}
    {% set found = run_query(
        "select tables.table_oid is not distinct from to_regclass(" ~ dbt.string_literal(relation) ~ "),"
        ~ " tables.structure, tables.built_at, tables.definition is distinct from " ~ pgsplit.service_table_definition(sql)
        ~ " or tables.follows is distinct from " ~ pgsplit.service_table_follows() ~ ", service.switched_at,"
        ~ " exists (select from pg_catalog.pg_subscription as subscription"
        ~ " inner join pg_catalog.pg_database as database on database.oid = subscription.subdbid"
        ~ " where database.datname = current_database() and subscription.subenabled)"
        ~ " from split.service as service left join split.service_tables as tables"
        ~ " on tables.table_name = " ~ dbt.string_literal(relation.identifier)
    ).rows[0] %}
    {% do return({
        'is_ours': found[0], 'structure': found[1], 'built_at': found[2], 'is_other_definition': found[3],
        'switched_at': found[4], 'is_following': found[5],
    }) %}
{% endmacro %}
