with

users as (
    select * from {{ source('blytz_hire', 'users') }}
),

va_profiles as (
    select * from {{ source('blytz_hire', 'va_profiles') }}
),

companies as (
    select * from {{ source('blytz_hire', 'companies') }}
),

-- A user may have both a profile and a company. One of them speaks, whole: a profile's name
-- beside a company's logo would be nobody's.
presented as (
    select
        users.*,
        va_profiles."userId" is null
        or (users.role = 'company' and companies."userId" is not null) as as_company,
        va_profiles.name as va_name,
        va_profiles."avatarUrl" as va_avatar,
        va_profiles."verificationLevel" as va_verification_level,
        companies.name as company_name,
        companies."logoUrl" as company_avatar,
        companies."verificationLevel" as company_verification_level
    from users
    left join va_profiles on users.id = va_profiles."userId"
    left join companies on users.id = companies."userId"
),

renamed as (
    select
        -- ids
        id,

        -- text
        email,
        role,
        case when as_company then company_name else va_name end as name,
        case when as_company then company_avatar else va_avatar end as avatar,
        case
            when as_company then company_verification_level else va_verification_level
        end as verification_level,

        -- timestamps
        null::timestamp(3) as deleted_at
    from presented
)

select * from renamed
