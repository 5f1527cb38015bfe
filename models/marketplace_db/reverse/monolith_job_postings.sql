with

job_postings as (
    select * from {{ ref('job_postings') }}
),

renamed as (
    select
        id,
        company_id as "companyId",
        title,
        description,
        requirements,
        responsibilities,
        benefits,
        {{ rate_range('salary_range') }} as "rateRange",
        budget,
        location,
        remote,
        category,
        tags,
        experience_level as "experienceLevel",
        employment_type as "employmentType",
        job_type as "jobType",
        duration,
        status,
        urgency,
        skills_required as "skillsRequired",
        tools_used as "toolsUsed",
        team_size as "teamSize",
        reporting_to as "reportingTo",
        travel_required as "travelRequired",
        work_schedule as "workSchedule",
        views,
        proposal_count as "proposalCount",
        featured,
        created_at as "createdAt",
        updated_at as "updatedAt"
    from job_postings
)

select * from renamed
