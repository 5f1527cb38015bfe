{#
    followed_mirrors(node): which changes of the mirror a model follows, from its `config.meta.follows`.

    | follows                                 | mirror      | column | key    |
    |-----------------------------------------|-------------|--------|--------|
    | {payments: payment_id}                  | payments    | payment_id | id |
    | {va_profiles: {column: id, key: userId}}| va_profiles | id     | userId |

    A change of a mirror row whose `key` is K touches the model's rows whose `column` is K, and no
    others. `key` is a column of the mirror, its primary key `id` unless said otherwise, or a macro.
#}
{% macro followed_mirrors(node) %}
    {% set found = [] %}
    {% for mirror, how in node.config.meta.follows.items() %}
        {% if how is string %}
            {% do found.append({'mirror': mirror, 'column': how, 'key': 'id'}) %}
        {% else %}
            {% do found.append({'mirror': mirror, 'column': how.column, 'key': how.get('key', 'id')}) %}
        {% endif %}
    {% endfor %}
    {% do return(found) %}
{% endmacro %}
