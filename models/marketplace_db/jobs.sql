with

source as (
    select * from {{ source('blytz_hire', 'jobs') }}
),

renamed as (
    select
        -- ids
        id,
        "jobPostingId" as job_posting_id,
        "vaProfileId" as va_profile_id,
        "companyId" as company_id,

        -- text
        title,
        description,
        status,

        -- numerics
        budget,
        "hourlyRate" as hourly_rate,
        "totalHours" as total_hours,
        "totalAmount" as total_amount,

        -- timestamps
        "startDate" as start_date,
        "endDate" as end_date,
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
