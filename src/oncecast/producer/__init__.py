"""The producer: accepts events, writes them to its journal, and broadcasts them."""
