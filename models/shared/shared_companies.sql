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
        "logoUrl" as logo_url,
        "verificationLevel" as verification_level
    from source
)

select * from renamed
