"""The vital signs of a split: what health and metrics are made of, asked without writing.

`ask` asks one database in one statement, `gather` all of them at once, `vitals` puts their answers
together for each service, and `judge` says what is wrong. Unlike `status` nothing here writes, not
even a heartbeat, so a login with few rights is enough, and it may be done every few seconds.
"""
