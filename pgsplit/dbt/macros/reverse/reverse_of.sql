{#
    reverse_of(table, others): a reverse model that only renames: the monolith's table from the
    service's table of the same name. Give in `others` what is not only renamed; see reverse_columns().

    | call                                               | output                                        |
    |----------------------------------------------------|-----------------------------------------------|
    | reverse_of('matches')                              | select "id", "job_posting_id" as "jobPostingId", … from the table matches |
    | reverse_of('contracts', {'startDate': 'start_date::timestamp'}) | select …, start_date::timestamp as "startDate", … |
#}
{% macro reverse_of(table, others={}) %}
with

{{ table }} as (
    select * from {{ ref(table) }}
),

renamed as (
    select
        {{ pgsplit.reverse_columns(table, others) }}
    from {{ table }}
)

select * from renamed
{% endmacro %}
