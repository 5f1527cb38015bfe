with

assessments as (
    select * from {{ ref('assessments') }}
),

renamed as (
    select {{ pgsplit.reverse_columns('skills_assessments') }}
    from assessments
)

select * from renamed
