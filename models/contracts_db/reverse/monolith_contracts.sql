with

contracts as (
    select * from {{ ref('contracts') }}
),

renamed as (
    select
        id,
        job_id as "jobId",
        job_posting_id as "jobPostingId",
        va_profile_id as "vaProfileId",
        company_id as "companyId",
        proposal_id as "proposalId",
        contract_type as "contractType",
        amount,
        hourly_rate as "hourlyRate",
        currency,
        (start_date + start_time)::timestamp(3) as "startDate",
        (end_date + end_time)::timestamp(3) as "endDate",
        status,
        terms,
        deliverables,
        milestones_data as "milestonesData",
        payment_schedule as "paymentSchedule",
        total_paid as "totalPaid",
        total_hours as "totalHours",
        created_at as "createdAt",
        updated_at as "updatedAt"
    from contracts
)

select * from renamed
