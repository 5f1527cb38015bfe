{#
    money(table, column): what a column of the kind `money` holds: whole cents, as many as fit into
    the monolith's integer. The second check is dropped when the monolith's table is retired.

    | call                               | constraint                    | expression                                |
    |------------------------------------|-------------------------------|-------------------------------------------|
    | `config: {meta: {kind: money}}`    | payments_amount_check         | amount = round(amount, 2)                 |
    | of payments.amount                 | payments_amount_fits_monolith | amount between -21474836.48 and 21474836.47 |
#}
{% macro money(table, column) %}
    {% do return([
        {'type': 'check', 'expression': column ~ ' = round(' ~ column ~ ', 2)'},
        {
            'type': 'check', 'name': table ~ '_' ~ column ~ '_fits_monolith',
            'expression': column ~ ' between -21474836.48 and 21474836.47',
        },
    ]) %}
{% endmacro %}
