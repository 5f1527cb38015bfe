{#
    state_version(): the version of the schema `split` that this package works with.

    The same number as VERSION in pgsplit/state/schema.py, which makes and upgrades the schema.
#}
{% macro state_version() %}
    {% do return(3) %}
{% endmacro %}
