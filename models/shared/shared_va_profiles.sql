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
        skills,

        -- numerics
        "hourlyRate" as hourly_rate,
        "averageRating" as average_rating,
        "totalReviews" as total_reviews
    from source
)

select * from renamed
