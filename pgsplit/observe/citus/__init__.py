"""Distributes the tables of a service that outgrows one server, with Citus."""
