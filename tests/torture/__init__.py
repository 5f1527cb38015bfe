"""Random lives of services, with random faults: `make torture`; see docs/testing.md."""
