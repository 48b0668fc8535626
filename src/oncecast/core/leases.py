"""Interpret leases: who has which event, and when the death of an owner counts against an event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, TypeAlias

from oncecast.core.event import Arrival
from oncecast.core.lease_owners import is_quarantined


class LeaseState(NamedTuple):
    """A lease of `owner`; None after a takeover, when the event is free."""

    owner: str | None
    takeovers: int
    """How often the event was taken over from an owner that died."""


DoneMarker: TypeAlias = str
"""The place at which an event has ended, kept instead of its lease."""


@dataclass(slots=True)
class Claims:
    """The result of one call for a batch. Each event is in exactly one of the first five lists."""

    mine: list[Arrival] = field(default_factory=list)
    taken: list[tuple[Arrival, str]] = field(default_factory=list)
    """Leased by another listener, with its token: *not* ended."""
    ended: list[Arrival] = field(default_factory=list)
    """With a done marker of this place."""
    elsewhere: list[Arrival] = field(default_factory=list)
    """With a done marker of another place: published again; only PostgreSQL can compare them."""
    free: list[Arrival] = field(default_factory=list)
    """Without a lease (only from `peek`)."""
    takeovers: list[tuple[Arrival, int]] = field(default_factory=list)
    """Events whose lease has another count of takeovers than their arrival, with that count."""
    foreign: list[tuple[str, bytes]] = field(default_factory=list)
    """Keys with a foreign value, which was overwritten, and the first bytes of that value."""

    def add(self, others: Claims) -> None:
        """Add the result of another call for other events."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(others, each.name))

    def lease_free(self) -> None:
        """Record that the call has leased the free events."""
        self.mine.extend(self.free)
        self.free.clear()


def partition(arrivals: Sequence[Arrival], found: Iterable[LeaseState | DoneMarker | None], token: str) -> Claims:
    """Return who has which of `arrivals`, as the owner `token` sees it; `found` is the value of each."""
    claims = Claims()
    for arrival, lease in zip(arrivals, found, strict=True):
        if lease is None:
            claims.free.append(arrival)
            continue
        if isinstance(lease, DoneMarker):
            (claims.ended if lease == arrival.cursor else claims.elsewhere).append(arrival)
            continue
        owner, takeovers = lease
        if takeovers != arrival.takeovers:
            claims.takeovers.append((arrival, takeovers))
        if owner is None:
            claims.free.append(arrival)
        elif owner == token:
            claims.mine.append(arrival)
        else:
            claims.taken.append((arrival, owner))
    return claims


def takeovers_after(takeovers: int, *, died: bool, ran_alone: bool) -> int:
    """Return the new count of an event after its lease owner stopped; only a proven death counts.

    Any event of a dead process may have caused the crash. A quarantined event runs alone; for it only a crash during
    that run counts.
    """
    # rule: a process that dies charges a quarantined event only if it was running
    counts = died and (not is_quarantined(takeovers) or ran_alone)
    return takeovers + counts
