"""PostgreSQL and Redis in memory, for tests and simulation."""

from oncecast.testing.memory.conflicts import MemoryConflicts
from oncecast.testing.memory.crash_log import MemoryCrashLog
from oncecast.testing.memory.dead_letters import MemoryDeadLetters
from oncecast.testing.memory.events import MemoryEvents
from oncecast.testing.memory.leases import MemoryLeases, MemoryRedis
from oncecast.testing.memory.outbox import MemoryOutbox
from oncecast.testing.memory.postgres import MemoryPostgres
from oncecast.testing.memory.unforwarded import MemoryUnforwarded

__all__ = [
    "MemoryConflicts",
    "MemoryCrashLog",
    "MemoryDeadLetters",
    "MemoryEvents",
    "MemoryLeases",
    "MemoryOutbox",
    "MemoryPostgres",
    "MemoryRedis",
    "MemoryUnforwarded",
]
