{{ pgsplit.reverse_of('badges') }}
