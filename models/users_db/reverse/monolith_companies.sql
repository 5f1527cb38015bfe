with

companies as (
    select * from {{ ref('companies') }}
),

company_details as (
    select * from {{ ref('company_details') }}
),

-- One row a company. One that the service has not given details yet has the monolith's defaults.
described as (
    select
        companies.*,
        company_details.bio,
        company_details.website,
        company_details.industry,
        company_details.company_size,
        company_details.founded_year,
        company_details.description,
        company_details.mission,
        company_details."values",
        company_details.benefits,
        coalesce(company_details.featured_company, false) as featured_company,
        company_details.social_links,
        company_details.tech_stack,
        case
            when company_details.company_id is null then 0
            else company_details.total_spent
        end as total_spent
    from companies
    left join company_details on companies.id = company_details.company_id
),

renamed as (
    select
        id,
        user_id as "userId",
        name,
        bio,
        country,
        website,
        logo_url as "logoUrl",
        industry,
        company_size as "companySize",
        founded_year as "foundedYear",
        description,
        mission,
        "values",
        benefits,
        email,
        phone,
        verification_level as "verificationLevel",
        background_check_passed as "backgroundCheckPassed",
        featured_company as "featuredCompany",
        social_links as "socialLinks",
        tech_stack as "techStack",
        total_spent as "totalSpent",
        updated_at as "updatedAt"
    from described
)

select * from renamed
