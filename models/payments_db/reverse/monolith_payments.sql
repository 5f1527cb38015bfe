with

payments as (
    select * from {{ ref('payments') }}
),

refunds as (
    select * from {{ ref('refunds') }}
),

disputes as (
    select * from {{ ref('disputes') }}
),

-- One row a payment. The reason of a refund that never was stays in metadata as it is; without
-- a dispute there is no reason for one.
settled as (
    select
        payments.*,
        refunds.amount as refund_amount,
        refunds.refunded_at,
        case
            when refunds.payment_id is null then payments.metadata ->> 'refundReason'
            else refunds.reason
        end as refund_reason,
        disputes.reason as dispute_reason
    from payments
    left join refunds on payments.id = refunds.payment_id
    left join disputes on payments.id = disputes.payment_id
),

refund_told as (
    select
        *,
        {{ json_with_text('metadata', 'refundReason', 'refund_reason') }} as with_refund
    from settled
),

dispute_told as (
    select
        *,
        {{ json_with_text('with_refund', 'disputeReason', 'dispute_reason') }} as with_reasons
    from refund_told
),

renamed as (
    select
        id,
        job_id as "jobId",
        contract_id as "contractId",
        milestone_id as "milestoneId",
        match_id as "matchId",
        sender_id as "userId",
        receiver_id as "receiverId",
        stripe_payment_intent_id as "stripePaymentIntentId",
        {{ units_to_cents('amount') }} as amount,
        status,
        {{ units_to_cents('stripe_fee') }} as "stripeFee",
        {{ units_to_cents('platform_fee') }} as "platformFee",
        method,
        type,
        with_reasons as metadata,
        {{ units_to_cents('refund_amount') }} as "refundAmount",
        refunded_at as "refundedAt",
        processed_at as "processedAt",
        created_at as "createdAt",
        updated_at as "updatedAt"
    from dispute_told
)

select * from renamed
