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
        company_details.*,
        company_details.company_id is null as is_undescribed
    from companies
    left join company_details on companies.id = company_details.company_id
),

renamed as (
    select
        {{ pgsplit.reverse_columns('companies', {
            'featuredCompany': 'coalesce(featured_company, false)',
            'totalSpent': 'case when is_undescribed then 0 else total_spent end',
        }) }}
    from described
)

select * from renamed
