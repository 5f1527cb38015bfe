{#
    dbt's own tests `unique`, `not_null` and `relationships` read a service's table only where no
    validated constraint guarantees what they ask for; see is_not_guaranteed().
#}
{% macro postgres__test_unique(model, column_name) %}
    {{ pgsplit._unless_guaranteed(dbt.default__test_unique(model, column_name), model, 'unique', column_name) }}
{% endmacro %}


{% macro postgres__test_not_null(model, column_name) %}
    {{ pgsplit._unless_guaranteed(dbt.default__test_not_null(model, column_name), model, 'not_null', column_name) }}
{% endmacro %}


{% macro postgres__test_relationships(model, column_name, to, field) %}
    {{ pgsplit._unless_guaranteed(
        dbt.default__test_relationships(model, column_name, to, field), model, 'foreign_key', column_name, to, field
    ) }}
{% endmacro %}


{% macro _unless_guaranteed(sql, model, kind, column, other=none, field=none) %}
    {%- if pgsplit.is_monolith() -%}
        {{ sql }}
    {%- else -%}
        select * from (
            {{ sql }}
        ) as found
        where {{ pgsplit.is_not_guaranteed(model, kind, [column], other, [field] if field else []) }}
    {%- endif -%}
{% endmacro %}


{#
    is_not_guaranteed(model, kind, columns, other, fields): a condition, true if no validated constraint
    of the table guarantees it.

    | kind        | asked for                                    |
    |-------------|----------------------------------------------|
    | not_null    | the columns are never null                   |
    | unique      | they are the same in no two rows             |
    | foreign_key | they name a row of `other` by its `fields`   |

    PostgreSQL evaluates it first, and reads no row if it is false. The catalogue is asked each time: see
    split.guarantees(), which the compiled test calls, so it also tells which way a test went.
#}
{% macro is_not_guaranteed(model, kind, columns, other=none, fields=[]) %}
    {%- set arguments = [model.include(database=false) | string, kind, pgsplit._text_array(columns)] -%}
    {%- if other -%}
        {%- do arguments.extend([other.include(database=false) | string, pgsplit._text_array(fields)]) -%}
    {%- endif -%}
    not split.guarantees(
        {%- for argument in arguments -%}
            {{ dbt.string_literal(dbt.escape_single_quotes(argument)) }}{{ ', ' if not loop.last }}
        {%- endfor -%}
    )
{%- endmacro %}


{# Names as a literal of PostgreSQL's type text[]. #}
{% macro _text_array(names) %}
    {%- set quoted = [] -%}
    {%- for name in names -%}
        {%- do quoted.append(tojson(name.strip('"'))) -%}
    {%- endfor -%}
    {%- do return('{' ~ quoted | join(',') ~ '}') -%}
{% endmacro %}
