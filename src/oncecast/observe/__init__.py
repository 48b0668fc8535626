"""What becomes of telemetry: log lines and metrics."""
