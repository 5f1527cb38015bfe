{{ pgsplit.reverse_of('orders') }}
