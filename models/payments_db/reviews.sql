with

source as (
    select * from {{ source('blytz_hire', 'reviews') }}
),

renamed as (
    select
        -- ids
        id,
        "reviewerId" as reviewer_id,
        "targetId" as target_id,

        -- text
        "targetType" as target_type,
        comment,

        -- numerics
        rating,
        helpful,

        -- booleans
        verified,

        -- documents
        categories,

        -- timestamps
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
