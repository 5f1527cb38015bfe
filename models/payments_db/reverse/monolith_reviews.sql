{{ pgsplit.reverse_of('reviews') }}
