with

source as (
    select * from {{ source('blytz_hire', 'badges') }}
),

renamed as (
    select
        -- ids
        id,
        "vaProfileId" as va_profile_id,

        -- text
        "badgeType" as badge_type,
        title,
        description,
        icon,
        level,

        -- timestamps
        "issuedAt" as issued_at,
        "expiresAt" as expires_at
    from source
)

select * from renamed
