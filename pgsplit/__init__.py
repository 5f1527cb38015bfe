"""Moves a monolith's data into its service databases, one module a phase."""
