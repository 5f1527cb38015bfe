{{ pgsplit.reverse_of('portfolio_items') }}
