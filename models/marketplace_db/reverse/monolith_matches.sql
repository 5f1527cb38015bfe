with

matches as (
    select * from {{ ref('matches') }}
),

renamed as (
    select
        id,
        job_posting_id as "jobPostingId",
        va_profile_id as "vaProfileId",
        status,
        created_at as "createdAt",
        updated_at as "updatedAt"
    from matches
)

select * from renamed
