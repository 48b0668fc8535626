"""A journal's batches: how appends are divided into them, which of them a read returns, and which are retired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from oncecast.core.wire import FRAME_MAX_EVENTS


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """A row of the journal: `count` consecutive events from `first_offset` on; `body` is their JSON array.

    The array of a *gap* is empty: an operator has skipped events that could not be read.
    """

    first_offset: int
    count: int
    at_us: int
    body: bytes

    @property
    def last_offset(self) -> int:
        """The offset of the last event."""
        return self.first_offset + self.count - 1

    @property
    def is_gap(self) -> bool:
        """Whether the events are gone."""
        return self.body == b"[]"


@dataclass(frozen=True, slots=True)
class KnownGroup:
    """A group that reads the journal and has rows for all offsets up to `saved`.

    `unseen_s` is how long the producer has run without a listener of the group. A `forgotten` group does not hold
    back retention.
    """

    name: str
    saved: int
    unseen_s: float = 0.0
    forgotten: bool = False


def divide(events: Sequence[bytes], first_offset: int, at_us: int, frame_max_bytes: int) -> list[JournalBatch]:
    """Divide events into batches of at most `frame_max_bytes` (or one larger event) and FRAME_MAX_EVENTS."""
    batches: list[JournalBatch] = []
    begin = size_bytes = 0
    for index, event in enumerate(events):
        is_full = index - begin == FRAME_MAX_EVENTS or size_bytes + len(event) + 2 > frame_max_bytes
        if size_bytes and is_full:
            batches.append(_batch(events[begin:index], first_offset + begin, at_us))
            begin, size_bytes = index, 0
        size_bytes += len(event) + 1
    batches.append(_batch(events[begin:], first_offset + begin, at_us))
    return batches


def _batch(events: Sequence[bytes], first_offset: int, at_us: int) -> JournalBatch:
    return JournalBatch(first_offset, len(events), at_us, b"[" + b",".join(events) + b"]")


def up_to(
    batches: Iterable[JournalBatch], after: int, max_bytes: int, max_events: int | None
) -> Iterator[JournalBatch]:
    """Yield the batches that a read after the offset `after` returns: see `Journal.read`."""
    size_bytes = 0
    for batch in batches:
        if size_bytes and size_bytes + len(batch.body) > max_bytes:
            return
        size_bytes += len(batch.body)
        yield batch
        if max_events is not None and batch.last_offset >= after + max_events:
            return


def retired_to(
    batches: Iterable[tuple[int, int, int]], upto: int, *, before_us: int, surplus_bytes: int
) -> int | None:
    """Return the last offset that `Journal.retire` deletes; None if it deletes nothing.

    `batches` are the last offset, time and size of each batch except the newest, oldest first.
    """
    last: int | None = None
    for offset, at_us, size_bytes in batches:
        if offset > upto or (at_us >= before_us and surplus_bytes <= 0):
            break
        last = offset
        surplus_bytes -= size_bytes
    return last
