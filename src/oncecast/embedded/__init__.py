"""PostgreSQL and Valkey from wheels, with producers and listeners, all as child processes."""

from oncecast.embedded.stack import Stack

__all__ = ["Stack"]
