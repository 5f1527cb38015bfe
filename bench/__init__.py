"""Measurements: `python -m bench NAME`, or `make bench WHAT=NAME`."""
