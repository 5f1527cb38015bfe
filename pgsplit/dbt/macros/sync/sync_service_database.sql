{#
    sync_service_database(): calls split.sync() before dbt builds, so that its models find the
    service's tables and the mirror in one state.

    Not if a completed service has changed what others share: no sync can succeed then, and the reverse
    model says what was changed, or is what has been fixed.
#}
{% macro sync_service_database() %}
    {% if execute and flags.WHICH in ['build', 'run'] and not pgsplit.is_monolith() %}
        {% if run_query("select from split.shared_changes()").rows | length == 0 %}
            commit;
            begin isolation level repeatable read;
            lock table split.turn in exclusive mode;
            select * from split.sync();
            commit;
        {% endif %}
    {% endif %}
{% endmacro %}
