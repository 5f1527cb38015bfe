{{ pgsplit.reverse_of('timesheets') }}
