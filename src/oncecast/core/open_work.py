"""What waits for something or somebody, of a whole group."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class OpenWork(NamedTuple):
    """Numbers of entries, and the age of the oldest in seconds (0 if there is none)."""

    retrying: int
    """Events that wait for their next attempt."""
    dead_letters: int
    """Dead letters neither replayed nor discarded."""
    dead_letters_oldest_s: float
    conflicts: int
    """Conflicts neither replayed nor discarded."""
    emissions: int
    """Emitted events that no producer has accepted yet."""
    emissions_oldest_s: float


class CountsOpenWork(Protocol):
    """Counts the open work of a group."""

    async def open_work(self) -> OpenWork:
        """Return the counts. Raises Unavailable."""
