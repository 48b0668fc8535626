"""Where agreements and events are kept: leases in Redis, events in PostgreSQL, and both in memory."""
