"""One connection to each producer, and what the listener knows of its journal."""
