{{ pgsplit.reverse_of('invoices') }}
