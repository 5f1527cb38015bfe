{#
    followed_key(key): a key of a table that a model follows, as an SQL expression over its columns.

    | key                          | output                                |
    |------------------------------|---------------------------------------|
    | userId                       | "userId"                              |
    | conversation_of_notification | what the macro of that name gives     |

    Keys stand in models' `config.meta`, where dbt renders no macros, so a macro is given by its name.
#}
{% macro followed_key(key) %}
    {% do return(context[key]() if key in context else adapter.quote(key)) %}
{% endmacro %}
