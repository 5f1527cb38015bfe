{#
    A test of a completed service's tables that can't run any more, since a table or column that it
    reads is gone, is skipped: its team may do that. So is one that compares with the mirror of a table
    that nobody shares, which is no longer kept. The log says so, and the test ends with a warning.
#}
{% macro postgres__get_test_sql(main_sql, fail_calc, warn_if, error_if, limit) %}
    {% set gone = pgsplit.why_moot() %}
    {% if gone %}
        {% do exceptions.warn(
            model.name ~ " was skipped: " ~ gone ~ ". " ~ target.name ~ " is completed, and its tables are its team's."
        ) %}
        select 1 as failures, true as should_warn, false as should_error
    {% else %}
        {{ dbt.default__get_test_sql(main_sql, fail_calc, warn_if, error_if, limit) }}
    {% endif %}
{% endmacro %}


{# What a test stores, and reads, if it is skipped: no row. #}
{% macro postgres__get_limit_sql(sql, limit) %}
    {% if model.resource_type == 'test' and pgsplit.why_moot() %}
        select null as skipped where false
    {% else %}
        {{ dbt.default__get_limit_sql(sql, limit) }}
    {% endif %}
{% endmacro %}


{# Why the test that runs now can't run any more; nothing if it can. #}
{% macro why_moot() %}
    {% if not pgsplit.is_completed() %}
        {% do return(none) %}
    {% endif %}
    {% for source in pgsplit.monolith_tables()
        if source.unique_id in model.depends_on.nodes and source.config.meta.get('owner') == target.name
        and not source.config.meta.get('shared') and (model.get('test_metadata') or {}).get('name') != 'accounts_for' %}
        {% do return("nobody shares " ~ source.name ~ ", so its mirror is no longer kept") %}
    {% endfor %}
    {% set query = dbt.string_literal(dbt.escape_single_quotes(model.compiled_code)) %}
    {% do return(run_query("select split.cannot_run(" ~ query ~ ")").rows[0][0]) %}
{% endmacro %}
