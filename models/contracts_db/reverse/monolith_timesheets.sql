with

timesheets as (
    select * from {{ ref('timesheets') }}
),

renamed as (
    select
        id,
        contract_id as "contractId",
        va_profile_id as "vaProfileId",
        job_id as "jobId",
        date,
        start_time as "startTime",
        end_time as "endTime",
        total_hours as "totalHours",
        description,
        status,
        approved_at as "approvedAt",
        approved_by as "approvedBy",
        created_at as "createdAt",
        updated_at as "updatedAt"
    from timesheets
)

select * from renamed
