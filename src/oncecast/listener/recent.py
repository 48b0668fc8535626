"""The newest events that this listener has ended, kept in memory to answer readers while PostgreSQL is down."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from oncecast.core.clock import Clock
from oncecast.core.event import Arrival
from oncecast.core.outcomes import Outcome
from oncecast.core.ranges import Range
from oncecast.core.wire import decode_head

KEPT_EVENTS = 100
KEPT_BYTES = 4 * 1024 * 1024


class _Kept(msgspec.Struct, gc=False):
    raw: msgspec.Raw
    status: str
    cursor: str
    attempts: int
    at_us: int
    stored_at_s: float


class Recent:
    """A buffer of up to KEPT_EVENTS events and KEPT_BYTES."""

    def __init__(self, instance: str, clock: Clock) -> None:
        self._instance = instance
        self._unix_s = clock.unix_s  # called for every batch
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0

    def keep(self, arrivals: Sequence[Arrival], outcomes: Sequence[Outcome]) -> None:
        """Keep ended events; of a batch, only the last KEPT_EVENTS."""
        now_s = self._unix_s()
        for arrival, outcome in zip(arrivals[-KEPT_EVENTS:], outcomes[-KEPT_EVENTS:], strict=True):
            if outcome is not Outcome.STORED:
                continue
            status = "stored" if arrival.terminal_error is None else "dead"
            self._add(_Kept(arrival.raw, status, arrival.cursor, arrival.attempts, arrival.at_us, now_s))
        self._shrink()

    def keep_range(self, stored: Range) -> None:
        """Keep the last events of an undecoded range."""
        now_s = self._unix_s()
        raws = stored.raws[-KEPT_EVENTS:]
        for offset, raw in enumerate(raws, stored.last - len(raws) + 1):
            self._add(_Kept(raw, "stored", f"{stored.epoch}:{offset}", 1, stored.at_us, now_s))
        self._shrink()

    def _add(self, kept: _Kept) -> None:
        kept.raw = kept.raw.copy()  # a slice would keep the whole frame in memory
        self._kept.append(kept)
        self._kept_bytes += len(kept.raw)

    def _shrink(self) -> None:
        while len(self._kept) > KEPT_EVENTS or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft().raw)

    def newest(
        self,
        *,
        limit: int,
        type: str | None = None,
        status: str | None = None,
        source: str | None = None,
        id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return up to `limit` events, newest first, in the form of `EventReader.newest`; none of other listeners."""
        wanted = {"type": type, "source": source, "id": id}
        filters = [(name, value) for name, value in wanted.items() if value is not None]

        def matches(kept: _Kept) -> bool:
            head = decode_head(kept.raw)
            return status in (None, kept.status) and all(getattr(head, n) == value for n, value in filters)

        return [self._shown(kept) for kept in islice(filter(matches, reversed(self._kept)), limit)]

    def _shown(self, kept: _Kept) -> dict[str, Any]:
        return {
            "event": kept.raw,
            "status": kept.status,
            "cursor": kept.cursor,
            "listener": self._instance,
            "attempts": kept.attempts,
            "accepted_at": _rfc3339(kept.at_us / 1e6),
            "stored_at": _rfc3339(kept.stored_at_s),
            "mark": None,
        }


def _rfc3339(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
