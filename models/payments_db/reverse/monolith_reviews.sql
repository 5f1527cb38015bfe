with

reviews as (
    select * from {{ ref('reviews') }}
),

renamed as (
    select
        id,
        reviewer_id as "reviewerId",
        target_type as "targetType",
        target_id as "targetId",
        rating,
        comment,
        categories,
        helpful,
        verified,
        created_at as "createdAt",
        updated_at as "updatedAt"
    from reviews
)

select * from renamed
