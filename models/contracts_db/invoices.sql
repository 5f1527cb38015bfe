with

source as (
    select * from {{ source('blytz_hire', 'invoices') }}
),

renamed as (
    select
        -- ids
        id,
        "contractId" as contract_id,
        "userId" as user_id,
        "receiverId" as receiver_id,

        -- text
        "invoiceNumber" as invoice_number,
        currency,
        status,
        notes,

        -- numerics
        subtotal,
        "taxRate" as tax_rate,
        "taxAmount" as tax_amount,
        discount,
        "totalAmount" as total_amount,

        -- documents
        items,

        -- timestamps
        "dueDate" as due_date,
        "createdAt" as created_at,
        "updatedAt" as updated_at
    from source
)

select * from renamed
