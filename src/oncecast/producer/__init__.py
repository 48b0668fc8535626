"""The producer: takes events in, keeps them in its journal, and broadcasts them to whoever listens."""
