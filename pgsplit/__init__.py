"""The engine: splits a PostgreSQL monolith into a database per service, room by room."""
