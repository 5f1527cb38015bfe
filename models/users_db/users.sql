with

source as (
    select * from {{ source('blytz_hire', 'users') }}
),

renamed as (
    select
        -- ids
        id,

        -- text
        email,
        role,

        -- booleans
        "emailVerified" as email_verified,
        "profileComplete" as profile_complete,

        -- documents
        preferences,

        -- timestamps
        "lastSeenAt" as last_seen_at,
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
