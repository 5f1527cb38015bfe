with

source as (
    select * from {{ source('blytz_hire', 'companies') }}
),

renamed as (
    select
        -- ids
        id,
        "userId" as user_id,

        -- text
        name,
        country,
        email,
        phone,
        "logoUrl" as logo_url,
        "verificationLevel" as verification_level,

        -- booleans
        "backgroundCheckPassed" as background_check_passed,

        -- timestamps
        "updatedAt" as updated_at
    from source
)

select * from renamed
