"""A producer's durable log."""

from oncecast.journal.sqlite import JournalLimits, SqliteJournal

__all__ = ["JournalLimits", "SqliteJournal"]
