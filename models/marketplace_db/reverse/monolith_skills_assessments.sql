with

skills_assessments as (
    select * from {{ ref('skills_assessments') }}
),

renamed as (
    select
        id,
        va_profile_id as "vaProfileId",
        skill_name as "skillName",
        category,
        score,
        difficulty,
        assessment_type as "assessmentType",
        completed_at as "completedAt",
        expires_at as "expiresAt"
    from skills_assessments
)

select * from renamed
