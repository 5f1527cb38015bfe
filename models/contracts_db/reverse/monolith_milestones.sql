{{ reverse_of('milestones') }}
