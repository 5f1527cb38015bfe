{{ pgsplit.reverse_of('skills_assessments') }}
