with

source as (
    select * from {{ source('blytz_hire', 'va_profiles') }}
),

renamed as (
    select
        -- ids
        id,
        "userId" as user_id,

        -- text
        name,
        country,
        email,
        phone,
        "avatarUrl" as avatar_url,
        "verificationLevel" as verification_level,
        skills,

        -- numerics
        "hourlyRate" as hourly_rate,
        "averageRating" as average_rating,
        "totalReviews" as total_reviews,

        -- booleans
        "backgroundCheckPassed" as background_check_passed
    from source
)

select * from renamed
