with

va_profiles as (
    select * from {{ ref('va_profiles') }}
),

va_profile_details as (
    select * from {{ ref('va_profile_details') }}
),

-- One row a profile. One that the service has not given details yet has the monolith's defaults.
described as (
    select
        va_profiles.*,
        va_profile_details.bio,
        coalesce(va_profile_details.availability, true) as availability,
        va_profile_details.timezone,
        va_profile_details.languages,
        va_profile_details.work_experience,
        va_profile_details.education,
        va_profile_details.response_rate,
        coalesce(va_profile_details.featured_profile, false) as featured_profile,
        coalesce(va_profile_details.profile_views, 0) as profile_views,
        va_profile_details.resume_url,
        va_profile_details.video_intro_url,
        va_profile_details.skills_score,
        case
            when va_profile_details.va_profile_id is null then false
            else va_profile_details.featured
        end as featured,
        case
            when va_profile_details.va_profile_id is null then 0
            else va_profile_details.earned_amount
        end as earned_amount,
        coalesce(va_profile_details.completed_jobs, 0) as completed_jobs
    from va_profiles
    left join va_profile_details on va_profiles.id = va_profile_details.va_profile_id
),

renamed as (
    select
        id,
        user_id as "userId",
        name,
        bio,
        country,
        hourly_rate as "hourlyRate",
        skills,
        availability,
        email,
        phone,
        timezone,
        languages,
        work_experience as "workExperience",
        education,
        response_rate as "responseRate",
        average_rating as "averageRating",
        total_reviews as "totalReviews",
        featured_profile as "featuredProfile",
        profile_views as "profileViews",
        resume_url as "resumeUrl",
        video_intro_url as "videoIntroUrl",
        skills_score as "skillsScore",
        verification_level as "verificationLevel",
        background_check_passed as "backgroundCheckPassed",
        featured,
        earned_amount as "earnedAmount",
        completed_jobs as "completedJobs",
        avatar_url as "avatarUrl"
    from described
)

select * from renamed
