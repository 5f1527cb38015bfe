{{ pgsplit.reverse_of('proposals') }}
