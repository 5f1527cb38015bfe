{#
    service_login(): the role that the service itself connects as, from the owner of the schema `split`.

    | owner          | output           |
    |----------------|------------------|
    | payments_owner | payments_service |
#}
{% macro service_login() %}
    {% set found = run_query(
        "select regexp_replace(pg_get_userbyid(nspowner), '_owner$', '_service')"
        ~ " from pg_catalog.pg_namespace where nspname = 'split'"
    ) %}
    {% do return(adapter.quote(found.rows[0][0])) %}
{% endmacro %}
