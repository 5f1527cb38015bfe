{#
    belongs_to_team(node): whether a model's table is its service's own, and the service is completed.

    From then on its team changes it as it likes, so dbt neither makes nor changes it, and what its
    model's yml says of columns and constraints is no longer asked for. Rows that follow another
    service are still synced: a table that has such rows stays as it was made.
#}
{% macro belongs_to_team(node) %}
    {% do return(pgsplit.is_completed() and pgsplit.owned_rows(node) == 'true') %}
{% endmacro %}


{# Whether the service's database knows that the service is completed. Asks nothing while dbt parses. #}
{% macro is_completed() %}
    {% if not execute or pgsplit.is_monolith() %}
        {% do return(false) %}
    {% endif %}
    {% do return(run_query("select completed_at is not null from split.service").rows[0][0]) %}
{% endmacro %}


{# The same of a table, by its name. #}
{% macro is_table_of_team(name) %}
    {% for node in graph.get('nodes', {}).values()
        if node.config.materialized == 'service_table' and node.alias == name %}
        {% do return(pgsplit.belongs_to_team(node)) %}
    {% endfor %}
    {% do return(false) %}
{% endmacro %}


{# Ends a materialization that has nothing to do, and says why in the log. #}
{% macro leave_alone(why) %}
    {% do log(why ~ ": left as it is", info=true) %}
    {% call statement('main') %}select 'left as it is'{% endcall %}
{% endmacro %}
