"""PostgreSQL and its programs; knows nothing of splitting."""
