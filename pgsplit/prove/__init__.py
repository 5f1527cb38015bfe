"""Proofs that a service holds what the monolith yields."""
