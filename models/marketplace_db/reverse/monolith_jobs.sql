{{ reverse_of('jobs') }}
