with

source as (
    select * from {{ source('blytz_hire', 'va_profiles') }}
),

renamed as (
    select
        -- ids
        id as va_profile_id,

        -- text
        bio,
        timezone,
        "resumeUrl" as resume_url,
        "videoIntroUrl" as video_intro_url,

        -- numerics
        "responseRate" as response_rate,
        "profileViews" as profile_views,
        "skillsScore" as skills_score,
        "earnedAmount" as earned_amount,
        "completedJobs" as completed_jobs,

        -- booleans
        availability,
        "featuredProfile" as featured_profile,
        featured,

        -- documents
        languages,
        "workExperience" as work_experience,
        education
    from source
)

select * from renamed
