with

source as (
    select * from {{ source('blytz_hire', 'matches') }}
),

renamed as (
    select
        -- ids
        id,
        "jobPostingId" as job_posting_id,
        "vaProfileId" as va_profile_id,

        -- text
        status,

        -- timestamps
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
