with

source as (
    select * from {{ source('blytz_hire', 'milestones') }}
),

renamed as (
    select
        -- ids
        id,
        "contractId" as contract_id,
        "jobId" as job_id,

        -- text
        title,
        description,
        status,

        -- numerics
        amount,

        -- timestamps
        "dueDate" as due_date,
        "completedAt" as completed_at,
        "approvedAt" as approved_at,
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
