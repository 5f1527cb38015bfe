with

source as (
    select * from {{ source('blytz_hire', 'payments') }}
),

disputed as (
    select * from source
    where metadata ->> 'disputeReason' is not null
),

renamed as (
    select
        -- ids
        id as payment_id,

        -- text
        metadata ->> 'disputeReason' as reason
    from disputed
)

select * from renamed
