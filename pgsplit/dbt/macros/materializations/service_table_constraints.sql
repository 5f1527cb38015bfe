{#
    service_table_constraints(relation): the constraints of a model's yml that are added after the rows.

    | output     | meaning                                                              |
    |------------|----------------------------------------------------------------------|
    | name       | as given, else as PostgreSQL would name it                           |
    | definition | what follows `add constraint NAME`                                   |
    | offenders  | a query for the rows that break it                                   |
    | key        | columns that show an offender: the primary key and those concerned   |

    Foreign keys are deferrable and NO ACTION (RESTRICT can't wait for the commit): what the
    monolith refused is refused, at the latest when the transaction commits.
#}
{% macro service_table_constraints(relation) %}
    {% set found = [] %}
    {% set key = [pgsplit.service_table_key()] %}
    {% for constraint in model.constraints if constraint.type != 'not_null' %}
        {% do found.append(pgsplit._service_table_constraint(relation, constraint, constraint.columns)) %}
    {% endfor %}
    {% for column in pgsplit.service_table_columns(model) %}
        {% for constraint in column.constraints %}
            {% do found.append(pgsplit._service_table_constraint(relation, constraint, [column.name])) %}
        {% endfor %}
    {% endfor %}
    {% for constraint in found %}
        {% do constraint.update({'key': key + constraint.columns | reject('in', key) | list}) %}
    {% endfor %}
    {% do return(found | sort(attribute='rank')) %}
{% endmacro %}


{% macro _service_table_constraint(relation, constraint, columns) %}
    {% set quoted = columns | map('tojson') | join(', ') %}
    {% set type = constraint.type | string %}
    {% set name = constraint.name or ([relation.identifier] + columns) | join('_') %}
    {% if type == 'primary_key' %}
        {% do return({
            'rank': 1, 'columns': columns, 'name': constraint.name or relation.identifier ~ '_pkey',
            'definition': 'primary key (' ~ quoted ~ ')',
            'offenders': pgsplit._rows_sharing(relation, quoted) ~ ' or (' ~ quoted ~ ') is null',
        }) %}
    {% elif type == 'unique' %}
        {% do return({
            'rank': 2, 'columns': columns, 'name': constraint.name or name ~ '_key',
            'definition': 'unique (' ~ quoted ~ ')' ~ (' ' ~ constraint.expression if constraint.expression else ''),
            'offenders': pgsplit._rows_sharing(relation, quoted),
        }) %}
    {% elif type == 'check' %}
        {% do return({
            'rank': 4, 'columns': columns, 'name': constraint.name or name ~ '_check',
            'definition': 'check (' ~ constraint.expression ~ ')',
            'offenders': 'select * from ' ~ relation ~ ' where (' ~ constraint.expression ~ ') is false',
        }) %}
    {% elif type == 'foreign_key' %}
        {% set parent = constraint.to %}
        {% set parent_columns = constraint.to_columns | map('tojson') | join(', ') %}
        {% do return({
            'rank': 5, 'columns': columns, 'name': constraint.name or name ~ '_fkey',
            'definition': 'foreign key (' ~ quoted ~ ') references ' ~ parent ~ ' (' ~ parent_columns ~ ') deferrable',
            'offenders': 'select * from ' ~ relation ~ ' where (' ~ quoted ~ ') is not null and (' ~ quoted ~ ') not in'
                ~ ' (select ' ~ parent_columns ~ ' from ' ~ parent ~ ')',
        }) %}
    {% endif %}
    {% do exceptions.raise_compiler_error(
        model.name ~ ": service_table knows no constraint of type " ~ type
        ~ ". Use primary_key, unique, not_null, check or foreign_key in " ~ model.patch_path ~ "."
    ) %}
{% endmacro %}


{% macro _rows_sharing(relation, columns) %}
    {%- do return(
        'select * from ' ~ relation ~ ' where (' ~ columns ~ ') in (select ' ~ columns ~ ' from ' ~ relation
        ~ ' group by ' ~ columns ~ ' having count(*) > 1)'
    ) -%}
{% endmacro %}
