with

source as (
    select * from {{ source('blytz_hire', 'payments') }}
),

renamed as (
    select
        -- ids
        id,
        "userId" as sender_id,
        "receiverId" as receiver_id,
        "jobId" as job_id,
        "contractId" as contract_id,
        "milestoneId" as milestone_id,
        "matchId" as match_id,
        "stripePaymentIntentId" as stripe_payment_intent_id,

        -- text
        'USD'::text as currency,
        status,
        method,
        type,

        -- numerics
        {{ cents_to_units('amount') }} as amount,
        {{ cents_to_units('"stripeFee"') }} as stripe_fee,
        {{ cents_to_units('"platformFee"') }} as platform_fee,

        -- documents
        metadata,

        -- timestamps
        "processedAt" as processed_at,
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
