{#
    followed_tables(node): which changes of which tables a model follows, from its `config.meta.follows`.

    | follows                                 | table               | column | key        |
    |-----------------------------------------|---------------------|--------|------------|
    | {payments: payment_id}                  | blytz_hire.payments | payment_id | id     |
    | {va_profiles: {column: id, key: userId}}| blytz_hire.va_profiles | id  | userId     |
    | none, of a model of the table payments  | blytz_hire.payments | id         | id         |

    A change of a row of the table whose `key` is K touches the model's rows whose `column` is K, and
    no others. `key` is a column of the table, `id` unless said otherwise, or a macro. The tables are
    the mirror's; those of a reverse model are the service's own.
#}
{% macro followed_tables(node) %}
    {% set schema = target.name if is_reverse(node) else 'blytz_hire' %}
    {% set found = [] %}
    {% for name, how in node.config.meta.get('follows', {node.alias: 'id'}).items() %}
        {% set how = {'column': how} if how is string else how %}
        {% do found.append({
            'table': schema ~ '.' ~ name, 'column': how.column, 'key': how.get('key', 'id')
        }) %}
    {% endfor %}
    {% do return(found) %}
{% endmacro %}
