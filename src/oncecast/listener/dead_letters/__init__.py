"""Log, forward and replay dead letters once their rows are committed."""
