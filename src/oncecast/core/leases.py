"""Interpret leases: which listener has which range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

from oncecast.core.ranges import Range


class LeaseState(NamedTuple):
    """A lease of `owner`; None after a takeover, when the range is free."""

    owner: str | None
    takeovers: int
    """How often the range was taken over from an owner that died."""


DONE: Literal["done"] = "done"
"""The done marker that replaces the lease of a range whose events have all ended."""


@dataclass(slots=True)
class Claims:
    """The result of one call for several ranges. Each range is in exactly one of the first four lists."""

    acquired: list[Range] = field(default_factory=list)
    leased_elsewhere: list[tuple[Range, str]] = field(default_factory=list)
    """Leased by another listener, with its token: *not* ended."""
    ended: list[Range] = field(default_factory=list)
    """With a done marker."""
    free: list[Range] = field(default_factory=list)
    """Without a lease (only from `peek`)."""
    takeovers: list[tuple[Range, int]] = field(default_factory=list)
    """Ranges whose lease has another count of takeovers than this listener knows, with that count."""
    foreign: list[tuple[str, bytes]] = field(default_factory=list)
    """Keys with a foreign value, which was overwritten, and the first bytes of that value."""

    def add(self, others: Claims) -> None:
        """Add the result of another call for other ranges."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(others, each.name))

    def lease_free(self) -> None:
        """Record that the call has leased the free ranges."""
        self.acquired.extend(self.free)
        self.free.clear()


def partition(ranges: Sequence[Range], found: Iterable[LeaseState | Literal["done"] | None], token: str) -> Claims:
    """Return who has which of `ranges`, as the owner `token` sees it; `found` is the value of each."""
    claims = Claims()
    for each, lease in zip(ranges, found, strict=True):
        if lease is None:
            claims.free.append(each)
        elif isinstance(lease, str):
            claims.ended.append(each)
        else:
            if lease.takeovers != each.takeovers:
                claims.takeovers.append((each, lease.takeovers))
            if lease.owner is None:
                claims.free.append(each)
            elif lease.owner == token:
                claims.acquired.append(each)
            else:
                claims.leased_elsewhere.append((each, lease.owner))
    return claims
