with

source as (
    select * from {{ source('blytz_hire', 'proposals') }}
),

renamed as (
    select
        -- ids
        id,
        "jobPostingId" as job_posting_id,
        "vaProfileId" as va_profile_id,
        "jobId" as job_id,

        -- text
        "coverLetter" as cover_letter,
        "bidType" as bid_type,
        "deliveryTime" as delivery_time,
        status,

        -- numerics
        "bidAmount" as bid_amount,
        "hourlyRate" as hourly_rate,
        "estimatedHours" as estimated_hours,

        -- documents
        attachments,

        -- timestamps
        "viewedAt" as viewed_at,
        "respondedAt" as responded_at,
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
