"""Adapters for Redis (leases), PostgreSQL (events), and the log and brokers for dead letters."""
