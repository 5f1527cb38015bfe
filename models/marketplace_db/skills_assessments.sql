with

source as (
    select * from {{ source('blytz_hire', 'skills_assessments') }}
),

renamed as (
    select
        -- ids
        id,
        "vaProfileId" as va_profile_id,

        -- text
        "skillName" as skill_name,
        category,
        difficulty,
        "assessmentType" as assessment_type,

        -- numerics
        score,

        -- timestamps
        "completedAt" as completed_at,
        "expiresAt" as expires_at
    from source
)

select * from renamed
