"""The engine: splits a PostgreSQL monolith into a database per service, room by room."""

__version__ = "0.2.0"
