{{ pgsplit.reverse_of('milestones') }}
