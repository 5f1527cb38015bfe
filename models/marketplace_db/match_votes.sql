with

source as (
    select * from {{ source('blytz_hire', 'match_votes') }}
),

renamed as (
    select
        -- ids
        id,
        "jobPostingId" as job_posting_id,
        "vaProfileId" as va_profile_id,
        "userId" as user_id,

        -- booleans
        vote,

        -- timestamps
        "createdAt" as created_at
    from source
)

select * from renamed
