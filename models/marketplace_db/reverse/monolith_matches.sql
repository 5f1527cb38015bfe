{{ reverse_of('matches') }}
