with

milestones as (
    select * from {{ ref('milestones') }}
),

renamed as (
    select
        id,
        contract_id as "contractId",
        job_id as "jobId",
        title,
        description,
        amount,
        status,
        due_date as "dueDate",
        completed_at as "completedAt",
        approved_at as "approvedAt",
        created_at as "createdAt",
        updated_at as "updatedAt"
    from milestones
)

select * from renamed
