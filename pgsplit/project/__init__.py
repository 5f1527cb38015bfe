"""A project: its services, who owns which column, where the databases are, and dbt."""
