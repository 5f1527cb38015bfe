with

source as (
    select * from {{ source('blytz_hire', 'portfolio_items') }}
),

renamed as (
    select
        -- ids
        id,
        "vaProfileId" as va_profile_id,

        -- text
        title,
        description,
        "fileUrl" as file_url,
        "fileType" as file_type,
        "thumbnailUrl" as thumbnail_url,
        category,
        technologies,
        "projectUrl" as project_url,

        -- booleans
        featured,

        -- timestamps
        "createdAt" as created_at
    from source
)

select * from renamed
