with

source as (
    select * from {{ source('blytz_hire', 'payments') }}
),

-- Either field makes a refund: amounts without a time and times without an amount both exist.
refunded as (
    select * from source
    where "refundAmount" is not null or "refundedAt" is not null
),

renamed as (
    select
        -- ids
        id as payment_id,

        -- text
        metadata ->> 'refundReason' as reason,

        -- numerics
        {{ cents_to_units('"refundAmount"') }} as amount,

        -- timestamps
        "refundedAt" as refunded_at
    from refunded
)

select * from renamed
