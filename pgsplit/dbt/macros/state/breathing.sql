{#
    breathing(): a condition, true for each row, by which a query waits while a throttled runner wants
    its own work to pause; breathe(): a statement that waits likewise. Nothing without a throttle.
#}
{% macro breathing() %}
    {%- if env_var('PGSPLIT_BREATHES', '') -%}
        where case when random() < 0.01 then split.breathe() else true end
    {%- endif -%}
{% endmacro %}


{% macro breathe() %}
    {%- if env_var('PGSPLIT_BREATHES', '') -%}
        select split.breathe();
    {%- endif -%}
{% endmacro %}
