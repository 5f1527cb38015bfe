with

portfolio_items as (
    select * from {{ ref('portfolio_items') }}
),

renamed as (
    select
        id,
        va_profile_id as "vaProfileId",
        title,
        description,
        file_url as "fileUrl",
        file_type as "fileType",
        thumbnail_url as "thumbnailUrl",
        category,
        technologies,
        featured,
        project_url as "projectUrl",
        created_at as "createdAt"
    from portfolio_items
)

select * from renamed
