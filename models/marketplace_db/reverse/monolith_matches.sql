{{ pgsplit.reverse_of('matches') }}
