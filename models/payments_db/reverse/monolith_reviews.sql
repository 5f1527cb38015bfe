{{ reverse_of('reviews') }}
