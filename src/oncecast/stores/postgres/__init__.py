"""Events, cursors and dead letters in PostgreSQL, which decides that each event is processed once."""

from oncecast.stores.postgres.conflicts import PostgresConflicts
from oncecast.stores.postgres.crash_log import PostgresCrashLog
from oncecast.stores.postgres.database import Database
from oncecast.stores.postgres.dead_letters import PostgresDeadLetters
from oncecast.stores.postgres.outbox import PostgresOutbox
from oncecast.stores.postgres.reader import EventReader
from oncecast.stores.postgres.store import PostgresEvents
from oncecast.stores.postgres.unforwarded import PostgresUnforwarded

__all__ = [
    "Database",
    "EventReader",
    "PostgresConflicts",
    "PostgresCrashLog",
    "PostgresDeadLetters",
    "PostgresEvents",
    "PostgresOutbox",
    "PostgresUnforwarded",
]
