-- Users who have both a VA profile and a company: shared_users shows other services one of the two,
-- the company where their role says so. One row a user, with the one that is shown.
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

select
    users.id,
    users.role,
    va_profiles.name as va_name,
    companies.name as company_name,
    case when users.role = 'company' then 'company' else 'va' end as shown
from {{ source('blytz_hire', 'users') }} as users
inner join {{ source('blytz_hire', 'va_profiles') }} as va_profiles
    on users.id = va_profiles."userId"
inner join {{ source('blytz_hire', 'companies') }} as companies on users.id = companies."userId"
order by users.id
