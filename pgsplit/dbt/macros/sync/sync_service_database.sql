{#
    sync_service_database(): calls split.sync() before dbt builds, so that its models find the
    service's tables and the mirror in one state.
#}
{% macro sync_service_database() %}
    {% if execute and flags.WHICH in ['build', 'run'] and not pgsplit.is_monolith() %}
        commit;
        begin isolation level repeatable read;
        lock table split.turn in exclusive mode;
        select * from split.sync();
        commit;
    {% endif %}
{% endmacro %}
