with

source as (
    select * from {{ source('blytz_hire', 'job_postings') }}
),

renamed as (
    select
        -- ids
        id,
        "companyId" as company_id,

        -- text
        title,
        description,
        location,
        category,
        "experienceLevel" as experience_level,
        "employmentType" as employment_type,
        "jobType" as job_type,
        duration,
        status,
        urgency,
        "reportingTo" as reporting_to,
        "travelRequired" as travel_required,

        -- numerics
        budget,
        "teamSize" as team_size,
        views,
        "proposalCount" as proposal_count,

        -- booleans
        remote,
        featured,

        -- documents
        requirements,
        responsibilities,
        benefits,
        {{ salary_range('"rateRange"') }} as salary_range,
        tags,
        "skillsRequired" as skills_required,
        "toolsUsed" as tools_used,
        "workSchedule" as work_schedule,

        -- timestamps
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
