{#
    The seed and models/_sources.yml speak of the same columns, every table that the seed gives to
    this service is one of its models, and every line is compared or says why it can't be.
#}
{{ config(
    enabled=not pgsplit.is_monolith() and not var('everything', false),
    schema='audit',
    store_failures=true,
) }}

{%- set sources = [] %}
{%- set models = [] %}
{%- if execute %}
    {%- for source in pgsplit.monolith_tables() %}
        {%- for column in source.columns %}
            {%- do sources.append("('" ~ source.name ~ "', '" ~ column ~ "')") %}
        {%- endfor %}
    {%- endfor %}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' %}
        {%- do models.append("('" ~ node.name ~ "')") %}
    {%- endfor %}
{%- endif %}

with

expected as (
    select * from (
        values {{ (sources or ["('', '')"]) | join(', ') }}
    ) as pairs (monolith_table, monolith_column)
),

models as (
    select * from (
        values {{ (models or ["('')"]) | join(', ') }}
    ) as names (service_table)
),

owned as (
    select * from {{ ref('column_ownership') }}
),

problems as (
    select
        expected.monolith_table,
        expected.monolith_column,
        'it stands in _sources.yml, but not in column_ownership' as problem
    from expected
    left join owned
        on
            expected.monolith_table = owned.monolith_table
            and owned.monolith_column in (expected.monolith_column, '*')
    where owned.monolith_table is null

    union all

    select
        owned.monolith_table,
        owned.monolith_column,
        'it stands in column_ownership, but not in _sources.yml' as problem
    from owned
    left join expected using (monolith_table, monolith_column)
    -- what goes nowhere need not stand there
    where expected.monolith_table is null and owned.service is not null

    union all

    select
        owned.monolith_table,
        owned.monolith_column,
        'it goes to ' || owned.service_table || ', which is no model of this service' as problem
    from owned
    left join models using (service_table)
    where owned.service = '{{ target.name }}' and models.service_table is null

    union all

    select
        owned.monolith_table,
        owned.monolith_column,
        'its line for ' || coalesce(owned.service_column, 'no service')
        || ' has neither a total nor a reason' as problem
    from owned
    where owned.total is null and owned.reason is null
)

select * from problems
