{{ pgsplit.reverse_of('users') }}
