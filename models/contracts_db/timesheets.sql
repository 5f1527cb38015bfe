with

source as (
    select * from {{ source('blytz_hire', 'timesheets') }}
),

renamed as (
    select
        -- ids
        id,
        "contractId" as contract_id,
        "vaProfileId" as va_profile_id,
        "jobId" as job_id,
        "approvedBy" as approved_by,

        -- text
        description,
        status,

        -- numerics
        "totalHours" as total_hours,

        -- timestamps
        date,
        "startTime" as start_time,
        "endTime" as end_time,
        "approvedAt" as approved_at,
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
