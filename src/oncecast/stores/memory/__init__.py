"""What PostgreSQL and Redis do, in memory: for tests and simulation, for as long as the process lives."""

from oncecast.stores.memory.events import MemoryDeaths, MemoryEvents, MemoryLetters
from oncecast.stores.memory.leases import MemoryLeases, MemoryRedis
from oncecast.stores.memory.postgres import MemoryPostgres

__all__ = ["MemoryDeaths", "MemoryEvents", "MemoryLeases", "MemoryLetters", "MemoryPostgres", "MemoryRedis"]
