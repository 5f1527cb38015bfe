"""Streams between the monolith and the services, and applying what they bring."""
