{{ pgsplit.reverse_of('customers') }}
