with

users as (
    select * from {{ ref('users') }}
),

renamed as (
    select
        id,
        email,
        role,
        email_verified as "emailVerified",
        profile_complete as "profileComplete",
        last_seen_at as "lastSeenAt",
        preferences,
        created_at as "createdAt",
        updated_at as "updatedAt"
    from users
)

select * from renamed
