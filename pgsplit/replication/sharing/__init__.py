"""What services do with the tables that they share: an inbox of events, a read-through cache."""
