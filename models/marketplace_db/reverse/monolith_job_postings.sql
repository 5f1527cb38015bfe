{{ pgsplit.reverse_of('job_postings', {'rateRange': rate_range('salary_range')}) }}
