"""The connection to each producer, and the position in its journal."""
