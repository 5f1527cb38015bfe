{{ pgsplit.reverse_of('match_votes') }}
