{{ pgsplit.reverse_of('contracts', {
    'startDate': '(start_date + start_time)::timestamp(3)',
    'endDate': '(end_date + end_time)::timestamp(3)',
}) }}
