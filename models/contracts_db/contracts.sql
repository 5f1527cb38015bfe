with

contracts as (
    select * from {{ source('blytz_hire', 'contracts') }}
),

companies as (
    select * from {{ source('blytz_hire', 'companies') }}
),

va_profiles as (
    select * from {{ source('blytz_hire', 'va_profiles') }}
),

-- One row a contract, whether or not its two profiles are there: a contract is never lost.
between_users as (
    select
        contracts.*,
        companies."userId" as client_id,
        va_profiles."userId" as va_id
    from contracts
    left join companies on contracts."companyId" = companies.id
    left join va_profiles on contracts."vaProfileId" = va_profiles.id
),

renamed as (
    select
        -- ids
        id,
        "jobId" as job_id,
        "jobPostingId" as job_posting_id,
        "proposalId" as proposal_id,
        client_id,
        va_id,
        "companyId" as company_id,
        "vaProfileId" as va_profile_id,

        -- text
        "contractType" as contract_type,
        currency,
        status,
        "paymentSchedule" as payment_schedule,

        -- numerics
        amount,
        "hourlyRate" as hourly_rate,
        "totalPaid" as total_paid,
        "totalHours" as total_hours,

        -- documents
        terms,
        deliverables,
        "milestonesData" as milestones_data,

        -- timestamps
        "startDate"::date as start_date,
        {{ time_of_day('"startDate"') }} as start_time,
        "endDate"::date as end_date,
        {{ time_of_day('"endDate"') }} as end_time,
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from between_users
)

select * from renamed
