{#
    become_owner(schema): a statement after which the transaction acts as the schema's owner.

    The service's owner role then owns what dbt makes, whoever dbt has logged in as. A profile's `role`
    is not enough: dbt sets it once a connection, and the first rollback unsets it.
#}
{% macro become_owner(schema) %}
    select set_config('role', owner.rolname, true)
    from pg_catalog.pg_namespace as namespace
    inner join pg_catalog.pg_roles as owner on owner.oid = namespace.nspowner
    where namespace.nspname = {{ dbt.string_literal(schema) }};
{% endmacro %}
