{#
    shared_by(name): who shares which columns of one of the monolith's tables, from models/_sources.yml.

    | call                   | output                                                              |
    |------------------------|---------------------------------------------------------------------|
    | shared_by('customers') | {'id': ['billing'], 'email': ['billing', 'shipping']}               |

    The key comes first, and with it what reverse models follow, even if nobody shares that. Empty if
    nobody shares a column.
#}
{% macro shared_by(name) %}
    {% set found = {} %}
    {% set table = pgsplit.monolith_tables() | selectattr('name', 'equalto', name) | first %}
    {% set shared = table.config.meta.get('shared', {}) %}
    {% if shared %}
        {% for column in ['id'] + pgsplit.followed_tables(model) | map(attribute='column') | list %}
            {% do found.update({column: []}) %}
        {% endfor %}
    {% endif %}
    {% for service, columns in shared.items() %}
        {% for column in columns %}
            {% do found.setdefault(column, []).append(service) %}
        {% endfor %}
    {% endfor %}
    {% do return(found) %}
{% endmacro %}


{# Whether a mirror shows the service's own rows, and only what others share of them: it is completed. #}
{% macro is_mirror_of_completed(name) %}
    {% for table in pgsplit.monolith_tables() if table.name == name and table.config.meta.get('owner') == target.name %}
        {% do return(pgsplit.is_completed()) %}
    {% endfor %}
    {% do return(false) %}
{% endmacro %}
