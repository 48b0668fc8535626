"""A journal in memory, with the guarantees of a real one for as long as the process lives."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from oncecast.core.clock import Clock, unix_us
from oncecast.core.errors import JournalUnavailable
from oncecast.core.ports import JournalBatch, KnownGroup
from oncecast.core.wire import Epoch
from oncecast.journal.sqlite import divide


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
    """A Journal over `kept`. While `failure` is set, appends raise it."""

    def __init__(self, clock: Clock, kept: Kept | None = None, *, frame_max_bytes: int = 1024 * 1024) -> None:
        self._clock = clock
        self._kept = kept or Kept.new(clock)
        self._frame_max_bytes = frame_max_bytes
        self._callbacks: list[Callable[[Sequence[JournalBatch]], None]] = []
        self._waiting: list[tuple[Sequence[bytes], asyncio.Future[int]]] = []
        self.failure: JournalUnavailable | None = None
        self._kept.epochs.append(Epoch(clock.new_token(8), self.last + 1))

    @property
    def damage(self) -> str | None:
        """None: memory cannot be damaged."""
        return None

    @property
    def name(self) -> str:
        """The random name of the journal."""
        return self._kept.name

    @property
    def key(self) -> str:
        """The secret key of the journal."""
        return self._kept.key

    @property
    def epochs(self) -> Sequence[Epoch]:
        """All epochs with their first offsets."""
        return self._kept.epochs

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

    @property
    def groups(self) -> Mapping[str, KnownGroup]:
        """The known groups by name."""
        return self._kept.groups

    @property
    def failing(self) -> JournalUnavailable | None:
        """The error of the last commit; None after a success."""
        return self.failure

    async def keep_groups(self, groups: Sequence[KnownGroup]) -> None:
        """Store the known groups."""
        self._kept.groups |= {group.name: group for group in groups}

    async def retire(self, upto: int, *, before_us: int, keep_bytes: int) -> None:
        """Delete old batches up to `upto`, but keep `keep_bytes`."""
        batches = self._kept.batches
        surplus_bytes = self.used_bytes - keep_bytes
        while len(batches) > 1 and batches[0].last_offset <= upto:
            if batches[0].at_us >= before_us and surplus_bytes <= 0:
                return
            surplus_bytes -= len(batches.pop(0).body)

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
        size_bytes, end = 0, begin
        while end < len(batches) and (end == begin or size_bytes + len(batches[end].body) <= max_bytes):
            size_bytes += len(batches[end].body)
            end += 1
            if max_events is not None and batches[end - 1].last_offset >= after + max_events:
                break
        return batches[begin:end]

    def on_commit(self, callback: Callable[[Sequence[JournalBatch]], None]) -> None:
        """Register a callback for committed batches."""
        self._callbacks.append(callback)

    async def close(self) -> None:
        """Commit the waiting appends."""
        if self._waiting:
            await asyncio.wait([done for _, done in self._waiting])

    def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        if self.failure is not None:
            for _, done in group:
                if not done.done():
                    done.set_exception(self.failure)
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
