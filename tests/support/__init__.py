"""Helpers that tests share: servers, states to start from, traffic, and waiting."""
