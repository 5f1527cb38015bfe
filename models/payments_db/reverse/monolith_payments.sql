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
        {{ pgsplit.reverse_columns('payments', {
            'userId': 'sender_id',
            'amount': units_to_cents('amount'),
            'stripeFee': units_to_cents('stripe_fee'),
            'platformFee': units_to_cents('platform_fee'),
            'refundAmount': units_to_cents('refund_amount'),
            'metadata': 'with_reasons',
        }) }}
    from dispute_told
)

select * from renamed
