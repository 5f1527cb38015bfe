{{ pgsplit.reverse_of('jobs') }}
