"""Redis and PostgreSQL as the listener sees them, and what it takes over from a dead listener."""
