with

badges as (
    select * from {{ ref('badges') }}
),

renamed as (
    select
        id,
        va_profile_id as "vaProfileId",
        badge_type as "badgeType",
        title,
        description,
        icon,
        level,
        issued_at as "issuedAt",
        expires_at as "expiresAt"
    from badges
)

select * from renamed
