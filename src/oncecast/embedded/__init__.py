"""A real PostgreSQL and Valkey from wheels, and the whole of Oncecast around them, as child processes."""

from oncecast.embedded.stack import Stack

__all__ = ["Stack"]
