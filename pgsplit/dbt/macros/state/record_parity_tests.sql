{#
    record_parity_tests(results): keeps the SQL of the parity tests that dbt has just run.

    | argument | meaning                                        |
    |----------|------------------------------------------------|
    | results  | what dbt hands to an `on-run-end` hook         |

    `runner.py parity` and `runner.py reconcile` run it from split.parity_tests without starting dbt.
    Beside it stands how many rows it found last, and when.
    The first run of all these tests makes the table, so it is complete wherever it exists. Tests that
    the project no longer has are removed. Idempotent and atomic.
#}
{% macro record_parity_tests(results) %}
    {% if execute and flags.WHICH in ['build', 'test'] and not pgsplit.is_monolith() %}
        {% set known = [] %}
        {# The graph has tests of other targets' models too, but not those models. #}
        {% for node in graph.nodes.values()
            if node.resource_type == 'test' and 'parity' in node.tags and node.attached_node in graph.nodes %}
            {% do known.append(node.name) %}
        {% endfor %}
        {% set names = [] %}
        {% set rows = [] %}
        {% for result in results if 'parity' in result.node.tags and result.node.compiled_code %}
            {% set node = result.node %}
            {% set arguments = node.test_metadata.kwargs %}
            {% set values = [] %}
            {% for value in [
                node.name,
                graph.nodes[node.attached_node].name,
                arguments.column_name,
                arguments.owner,
                arguments.get('on_delete', 'restrict'),
                node.config.severity | lower,
                node.schema,
                node.alias,
                node.compiled_code,
            ] %}
                {% do values.append(dbt.string_literal(dbt.escape_single_quotes(value))) %}
            {% endfor %}
            {# A test that could not run has counted nothing. #}
            {% set has_run = result.status | string in ['pass', 'warn', 'fail'] %}
            {% do values.append((result.failures or 0) ~ '' if has_run else 'null::bigint') %}
            {% do values.append('clock_timestamp()' if has_run else 'null::timestamptz') %}
            {% do names.append(node.name) %}
            {% do rows.append('(' ~ values | join(', ') ~ ')') %}
        {% endfor %}
        {% set is_made = run_query("select to_regclass('split.parity_tests') is not null").rows[0][0] %}
        {# A table that an earlier version has made lacks the results. #}
        {% set has_results = run_query(
            "select exists (select from pg_attribute where attrelid = to_regclass('split.parity_tests')"
            ~ " and attname = 'checked_at')"
        ).rows[0][0] %}
        {% set is_whole = known | reject('in', names) | list | length == 0 %}
        {% if is_made or is_whole %}
            {{ pgsplit.become_owner('split') }}
            {% if not is_made %}
                create table split.parity_tests (
                    name text primary key,
                    table_name text not null,
                    column_name text not null,
                    owner_table text not null,
                    on_delete text not null,
                    severity text not null,
                    stored_schema text not null,
                    stored_table text not null,
                    definition text not null,
                    orphans bigint,
                    checked_at timestamptz
                );
                comment on table split.parity_tests is
                'The parity tests as dbt ran them last: the reference that each follows, the SQL that yields the'
                ' rows whose reference leads nowhere, and the table that keeps those rows.';
            {% elif not has_results %}
                alter table split.parity_tests add column orphans bigint, add column checked_at timestamptz;
            {% endif %}
            delete from split.parity_tests
            where not (name = any(string_to_array({{ dbt.string_literal(known | join(',')) }}, ',')));
            {% if rows %}
                insert into split.parity_tests (
                    name, table_name, column_name, owner_table, on_delete, severity, stored_schema, stored_table, definition,
                    orphans, checked_at
                )
                values {{ rows | join(', ') }}
                on conflict (name) do update
                set
                    table_name = excluded.table_name,
                    column_name = excluded.column_name,
                    owner_table = excluded.owner_table,
                    on_delete = excluded.on_delete,
                    severity = excluded.severity,
                    stored_schema = excluded.stored_schema,
                    stored_table = excluded.stored_table,
                    definition = excluded.definition,
                    orphans = excluded.orphans,
                    checked_at = excluded.checked_at;
            {% endif %}
        {% endif %}
    {% endif %}
{% endmacro %}
