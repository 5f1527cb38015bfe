with

jobs as (
    select * from {{ ref('jobs') }}
),

renamed as (
    select
        id,
        job_posting_id as "jobPostingId",
        va_profile_id as "vaProfileId",
        company_id as "companyId",
        status,
        title,
        description,
        budget,
        hourly_rate as "hourlyRate",
        total_hours as "totalHours",
        total_amount as "totalAmount",
        start_date as "startDate",
        end_date as "endDate",
        created_at as "createdAt",
        updated_at as "updatedAt"
    from jobs
)

select * from renamed
