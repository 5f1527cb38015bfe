"""A project: its services, its columns' owners, its databases, and dbt."""
