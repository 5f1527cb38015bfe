{{ reverse_of('proposals') }}
