{#
    source(schema, table): a table of the monolith's schema, without the database's name.

    The mirror in a service database and the monolith itself use the same schema and table
    names, so SQL compiled here also runs there, which is what verification relies on.
#}
{% macro source(schema_name, table_name) %}
    {% do return(builtins.source(schema_name, table_name).include(database=false)) %}
{% endmacro %}
