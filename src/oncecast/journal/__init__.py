"""A producer's durable log."""

from oncecast.journal.sqlite import SqliteJournal

__all__ = ["SqliteJournal"]
