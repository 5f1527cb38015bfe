with

source as (
    select * from {{ source('blytz_hire', 'companies') }}
),

renamed as (
    select
        -- ids
        id as company_id,

        -- text
        bio,
        website,
        industry,
        "companySize" as company_size,
        description,
        mission,

        -- numerics
        "foundedYear" as founded_year,
        "totalSpent" as total_spent,

        -- booleans
        "featuredCompany" as featured_company,

        -- documents
        "values",
        benefits,
        "socialLinks" as social_links,
        "techStack" as tech_stack
    from source
)

select * from renamed
