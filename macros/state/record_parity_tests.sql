{#
    record_parity_tests(results): keeps the SQL of the parity tests that dbt has just run.

    | argument | meaning                                        |
    |----------|------------------------------------------------|
    | results  | what dbt hands to an `on-run-end` hook         |

    `runner.py parity` and `runner.py reconcile` run it from split.parity_tests, and need not start
    dbt. A test that the project no longer has is forgotten. Idempotent and atomic.
#}
{% macro record_parity_tests(results) %}
    {% if execute and flags.WHICH in ['build', 'test'] and target.name != 'blytz_hire' %}
        {% set known = [] %}
        {% for node in graph.nodes.values() if node.resource_type == 'test' and 'parity' in node.tags %}
            {% do known.append(dbt.string_literal(node.name)) %}
        {% endfor %}
        {% set ran = [] %}
        {% for result in results %}
            {% set node = result.node %}
            {% if 'parity' in node.tags and node.compiled_code %}
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
                {% do ran.append('(' ~ values | join(', ') ~ ')') %}
            {% endif %}
        {% endfor %}
        {{ become_owner('split') }}
        delete from split.parity_tests where not (name = any(array[{{ known | join(', ') }}]::text[]));
        {% if ran %}
            insert into split.parity_tests (
                name, table_name, column_name, owner_table, on_delete, severity, stored_schema, stored_table, definition
            )
            values {{ ran | join(', ') }}
            on conflict (name) do update
            set
                table_name = excluded.table_name,
                column_name = excluded.column_name,
                owner_table = excluded.owner_table,
                on_delete = excluded.on_delete,
                severity = excluded.severity,
                stored_schema = excluded.stored_schema,
                stored_table = excluded.stored_table,
                definition = excluded.definition;
        {% endif %}
    {% endif %}
{% endmacro %}
