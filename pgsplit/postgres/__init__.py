"""PostgreSQL and its programs; nothing here knows about splitting."""
