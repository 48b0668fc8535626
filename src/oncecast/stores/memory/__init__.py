"""What PostgreSQL and Redis do, in memory: for tests and simulation, for as long as the process lives."""

from oncecast.stores.memory.conflicts import MemoryConflicts
from oncecast.stores.memory.deaths import MemoryDeaths
from oncecast.stores.memory.events import MemoryEvents
from oncecast.stores.memory.leases import MemoryLeases, MemoryRedis
from oncecast.stores.memory.letters import MemoryLetters
from oncecast.stores.memory.outbox import MemoryOutbox
from oncecast.stores.memory.postgres import MemoryPostgres
from oncecast.stores.memory.unsent import MemoryUnsent

__all__ = [
    "MemoryConflicts",
    "MemoryDeaths",
    "MemoryEvents",
    "MemoryLeases",
    "MemoryLetters",
    "MemoryOutbox",
    "MemoryPostgres",
    "MemoryRedis",
    "MemoryUnsent",
]
