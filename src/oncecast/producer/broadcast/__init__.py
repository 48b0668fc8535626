"""Readers of the journal: listeners with credit, and plain WebSocket subscribers."""
