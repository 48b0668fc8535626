"""A journal in memory, with the guarantees of a real one for as long as the process lives."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from oncecast.core.clock import Clock, unix_us
from oncecast.core.errors import JournalUnavailable
from oncecast.core.journal import JournalBatch, KnownGroup, divide, retired_to, up_to
from oncecast.core.wire import Epoch


@dataclass(slots=True)
class Kept:
    """The contents of a journal, which survive reopening, as a file does."""

    name: str
    key: str
    epochs: list[Epoch] = field(default_factory=list)
    batches: list[JournalBatch] = field(default_factory=list)
    groups: dict[str, KnownGroup] = field(default_factory=dict)

    @classmethod
    def new(cls, clock: Clock) -> Kept:
        """Return an empty journal with a random name and key."""
        return cls(clock.new_token(8), clock.new_token(16))


class MemoryJournal:
    """A Journal over `kept`. While `failing` is set, appends raise it."""

    def __init__(self, clock: Clock, kept: Kept | None = None, *, frame_max_bytes: int = 1024 * 1024) -> None:
        self._clock = clock
        self._kept = kept = kept or Kept.new(clock)
        self._frame_max_bytes = frame_max_bytes
        self._callbacks: list[Callable[[Sequence[JournalBatch]], None]] = []
        self._waiting: list[tuple[Sequence[bytes], asyncio.Future[int]]] = []
        self.failing: JournalUnavailable | None = None
        self.damage: str | None = None
        self.name, self.key, self.epochs, self.groups = kept.name, kept.key, kept.epochs, kept.groups
        self.epochs.append(Epoch(clock.new_token(8), self.last + 1))

    @property
    def first(self) -> int:
        """The oldest offset that is kept."""
        return self._kept.batches[0].first_offset if self._kept.batches else 1

    @property
    def last(self) -> int:
        """The newest offset."""
        return self._kept.batches[-1].last_offset if self._kept.batches else 0

    @property
    def used_bytes(self) -> int:
        """The size of the kept events."""
        return sum(len(batch.body) for batch in self._kept.batches)

    async def keep_groups(self, groups: Sequence[KnownGroup]) -> None:
        """Store the known groups."""
        self.groups |= {group.name: group for group in groups}

    async def retire(self, upto: int, *, before_us: int, keep_bytes: int) -> None:
        """Delete old batches up to `upto`, but keep `keep_bytes`."""
        batches = self._kept.batches
        oldest = [(batch.last_offset, batch.at_us, len(batch.body)) for batch in batches[:-1]]
        last = retired_to(oldest, upto, before_us=before_us, surplus_bytes=self.used_bytes - keep_bytes)
        if last is not None:
            del batches[: bisect_right(batches, last, key=lambda batch: batch.last_offset)]

    async def append(self, events: Sequence[bytes]) -> int:
        """Append events as one batch; return the last offset."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._commit)
        self._waiting.append((events, done))
        return await done

    async def read(self, after: int, max_bytes: int, max_events: int | None = None) -> list[JournalBatch]:
        """Return batches after an offset."""
        batches = self._kept.batches
        begin = bisect_right(batches, after, key=lambda batch: batch.last_offset)
        return list(up_to(islice(batches, begin, None), after, max_bytes, max_events))

    def on_commit(self, callback: Callable[[Sequence[JournalBatch]], None]) -> None:
        """Register a callback for committed batches."""
        self._callbacks.append(callback)

    async def close(self) -> None:
        """Commit the waiting appends."""
        if self._waiting:
            await asyncio.wait([done for _, done in self._waiting])

    def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        if self.failing is not None:
            for _, done in group:
                if not done.done():
                    done.set_exception(self.failing)
            return
        first = self.last + 1
        events = [event for appended, _ in group for event in appended]
        batches = divide(events, first, unix_us(self._clock), self._frame_max_bytes)
        self._kept.batches += batches
        for appended, done in group:
            if not done.done():
                done.set_result(first)
            first += len(appended)
        for callback in self._callbacks:
            callback(batches)
