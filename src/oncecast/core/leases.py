"""What a lease says of an event, and what the death of its owner counts for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, TypeAlias

from oncecast.core.event import Arrival
from oncecast.core.lease_owners import is_quarantined


class LeaseState(NamedTuple):
    """The lease of `owner`, or of nobody since it was taken over."""

    owner: str | None
    takeovers: int
    """How often it was taken over from an owner that died."""


DoneMarker: TypeAlias = str
"""Stands in place of a lease once the event has ended: the place at which it did."""


@dataclass(slots=True)
class Claims:
    """What one call found out about a batch, each event in exactly one of the first five lists."""

    mine: list[Arrival] = field(default_factory=list)
    taken: list[tuple[Arrival, str]] = field(default_factory=list)
    """With the token of the holder: *not* ended, only not ours for now."""
    ended: list[Arrival] = field(default_factory=list)
    """Marked at this very place."""
    elsewhere: list[Arrival] = field(default_factory=list)
    """Marked at another place: a re-publication, which only PostgreSQL can judge."""
    free: list[Arrival] = field(default_factory=list)
    """Nobody's (only from `look`)."""
    takeovers: list[tuple[Arrival, int]] = field(default_factory=list)
    """The events whose lease has another count of takeovers than their arrival, with that count."""
    foreign: list[tuple[str, bytes]] = field(default_factory=list)
    """Keys with a value that Oncecast did not write, and how that value began; it was overwritten."""

    def add(self, others: Claims) -> None:
        """Take in what another call found out about other events."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(others, each.name))

    def lease_free(self) -> None:
        """Note that the call has leased what was free."""
        self.mine.extend(self.free)
        self.free.clear()


def partition(arrivals: Sequence[Arrival], found: Iterable[LeaseState | DoneMarker | None], token: str) -> Claims:
    """Return who has which of `arrivals`, as the owner `token` sees it, by what was found of each."""
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
    """Return the count of an event that was leased by a process which stopped; only a proven death counts.

    Of several events that the process had, any may be what it died of. Once an event is suspected, it is attempted
    alone, and only a death meanwhile counts.
    """
    # rule: a process that dies charges a quarantined event only if it was running
    counts = died and (not is_quarantined(takeovers) or ran_alone)
    return takeovers + counts
