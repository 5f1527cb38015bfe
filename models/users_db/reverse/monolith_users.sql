{{ reverse_of('users') }}
