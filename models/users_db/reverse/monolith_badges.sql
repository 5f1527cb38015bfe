{{ reverse_of('badges') }}
