"""What a listener does beside its events: emissions, standby, pruning, health checks."""
