with

invoices as (
    select * from {{ ref('invoices') }}
),

renamed as (
    select
        id,
        contract_id as "contractId",
        user_id as "userId",
        receiver_id as "receiverId",
        invoice_number as "invoiceNumber",
        items,
        subtotal,
        tax_rate as "taxRate",
        tax_amount as "taxAmount",
        discount,
        total_amount as "totalAmount",
        due_date as "dueDate",
        currency,
        status,
        notes,
        created_at as "createdAt",
        updated_at as "updatedAt"
    from invoices
)

select * from renamed
