{{ reverse_of('invoices') }}
