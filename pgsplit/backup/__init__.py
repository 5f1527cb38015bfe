"""Dumps of one database, and restoring them."""
