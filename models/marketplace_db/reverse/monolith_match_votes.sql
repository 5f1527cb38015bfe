with

match_votes as (
    select * from {{ ref('match_votes') }}
),

renamed as (
    select
        id,
        job_posting_id as "jobPostingId",
        va_profile_id as "vaProfileId",
        user_id as "userId",
        vote,
        created_at as "createdAt"
    from match_votes
)

select * from renamed
