with

proposals as (
    select * from {{ ref('proposals') }}
),

renamed as (
    select
        id,
        job_posting_id as "jobPostingId",
        va_profile_id as "vaProfileId",
        job_id as "jobId",
        cover_letter as "coverLetter",
        bid_amount as "bidAmount",
        bid_type as "bidType",
        hourly_rate as "hourlyRate",
        estimated_hours as "estimatedHours",
        delivery_time as "deliveryTime",
        attachments,
        status,
        viewed_at as "viewedAt",
        responded_at as "respondedAt",
        created_at as "createdAt",
        updated_at as "updatedAt"
    from proposals
)

select * from renamed
