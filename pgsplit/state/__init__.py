"""The state in the databases: what was done, where each service stands, and what syncs it."""
