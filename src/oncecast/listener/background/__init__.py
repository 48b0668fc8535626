"""Background tasks of a listener: outbox relay, standby, pruning, health checks."""
