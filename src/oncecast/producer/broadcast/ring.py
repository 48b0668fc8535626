"""A ring buffer of the newest batches, and the readers that wait for the next.

A reader that is not far behind is served from here; a slower one reads from the journal until it has caught up.
Slow readers cost no memory, because batches that leave the ring are still in the journal.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence

from oncecast.core.journal import JournalBatch
from oncecast.core.ports import Journal
from oncecast.core.wire import Gap, encode, events_frame
from oncecast.http.websocket import encoded_frame


class Frame:
    """A batch as a frame for listeners: encoded once, on first use, and shared by all."""

    __slots__ = ("_encoded", "batch", "event_count", "size_bytes")

    def __init__(self, batch: JournalBatch) -> None:
        self.batch = batch
        self._encoded: bytes | None = None
        if batch.is_gap:
            self.event_count = 0
            self.size_bytes = len(self.text)
        else:
            self.event_count = batch.count
            self.size_bytes = len(events_frame(batch.first_offset, batch.at_us, b"")) + len(batch.body)

    @property
    def text(self) -> bytes:
        """The frame's text."""
        batch = self.batch
        if batch.is_gap:
            return encode(Gap(first=batch.first_offset, last=batch.last_offset))
        return events_frame(batch.first_offset, batch.at_us, batch.body)

    @property
    def encoded(self) -> bytes:
        """The frame as it is written to a connection."""
        if self._encoded is None:
            self._encoded = encoded_frame(self.text)
        return self._encoded


class Ring:
    """The frames of the journal's newest batches, up to `max_bytes`."""

    def __init__(self, journal: Journal, max_bytes: int) -> None:
        self._journal = journal
        self._max_bytes = max_bytes
        self._frames: list[Frame] = []
        self._firsts: list[int] = []
        self._size_bytes = 0
        self._more = asyncio.Event()
        self.last = journal.last
        journal.on_commit(self._commit)

    def _commit(self, batches: Sequence[JournalBatch]) -> None:
        if self._frames and batches[0].first_offset != self.last + 1:
            self._frames.clear()  # a refused commit is on disk after all: read it from the journal
            self._firsts.clear()
            self._size_bytes = 0
        for batch in batches:
            frame = Frame(batch)
            self._frames.append(frame)
            self._firsts.append(batch.first_offset)
            self._size_bytes += frame.size_bytes
        self.last = batches[-1].last_offset
        drop = 0
        while self._size_bytes > self._max_bytes and drop < len(self._frames) - 1:
            self._size_bytes -= self._frames[drop].size_bytes
            drop += 1
        if drop:
            del self._frames[:drop], self._firsts[:drop]
        self._more.set()
        self._more = asyncio.Event()

    def holds(self, offset: int) -> bool:
        """Return whether offsets from `offset` on are in memory, or not written yet."""
        return offset > self.last or (bool(self._firsts) and self._firsts[0] <= offset)

    async def wait_beyond(self, offset: int) -> None:
        """Wait until an event after `offset` is committed."""
        while self.last <= offset:
            await self._more.wait()

    async def after(self, offset: int, max_bytes: int) -> list[Frame]:
        """Return the next frames after `offset`, about `max_bytes` but at least one frame if there is any.

        The first may begin at or before `offset`. Raises JournalUnavailable or JournalCorrupt.
        """
        if self.last <= offset:
            return []
        index = bisect_right(self._firsts, offset + 1) - 1
        # rule: a reader behind the buffered frames reads the journal
        if index < 0:
            return [Frame(batch) for batch in await self._journal.read(offset, max_bytes)]
        frames: list[Frame] = []
        size_bytes = 0
        for frame in self._frames[index:]:
            if frames and size_bytes + frame.size_bytes > max_bytes:
                break
            frames.append(frame)
            size_bytes += frame.size_bytes
        return frames
