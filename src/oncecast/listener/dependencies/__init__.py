"""Gates to Redis and PostgreSQL, and the takeover of events from dead listeners."""
