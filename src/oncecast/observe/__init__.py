"""What becomes of facts: log lines and metrics."""
