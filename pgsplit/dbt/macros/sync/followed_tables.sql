{#
    followed_tables(node): which changes of which tables a model follows, from its `config.meta.follows`.

    | follows                                 | table               | column | key        |
    |-----------------------------------------|---------------------|--------|------------|
    | {payments: payment_id}                  | shop.payments       | payment_id | id     |
    | {va_profiles: {column: id, key: userId}}| shop.va_profiles    | id     | userId     |
    | none, of a model of the table payments  | shop.payments       | id         | id         |

    A change of a row of the table whose `key` is K touches the model's rows whose `column` is K, and
    no others. `key` is a column of the table, `id` unless said otherwise, or a macro. The tables are
    the mirror's; those of a reverse model are the service's own.
#}
{% macro followed_tables(node) %}
    {% set schema = target.name if pgsplit.is_reverse(node) else pgsplit.monolith_schema() %}
    {% set found = [] %}
    {% for name, how in node.config.meta.get('follows', {node.alias: 'id'}).items() %}
        {% set how = {'column': how} if how is string else how %}
        {% do found.append({
            'table': schema ~ '.' ~ name, 'column': how.column, 'key': how.get('key', 'id')
        }) %}
    {% endfor %}
    {% do return(found) %}
{% endmacro %}
