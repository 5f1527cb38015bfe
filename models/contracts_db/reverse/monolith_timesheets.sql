{{ reverse_of('timesheets') }}
