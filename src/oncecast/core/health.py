"""How a process is doing, in four words that every face shows alike: `/health`, `/readyz`, metrics, commands, page.

A process has *parts*: what it depends on, and itself. A *finding* says how one of them is at this moment; a Board
remembers since when. The whole is as bad as its worst part, but for parts that are not essential.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec


class Status(StrEnum):
    """`degraded` works with less than it should have, `down` does not work, `draining` stops in an orderly way."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"
    DRAINING = "draining"

    @classmethod
    def _missing_(cls, value: object) -> Status:
        """Return what a word of a later version comes to."""
        return cls.DEGRADED

    @property
    def is_ready(self) -> bool:
        """Whether the process does its work."""
        return self in (Status.OK, Status.DEGRADED)


_BADNESS = {status: rank for rank, status in enumerate(Status)}
PROCESS = "process"
"""The part that is the process itself."""


class Finding(NamedTuple):
    """How a part is now: why it is not ok, and what to do about it."""

    status: Status
    reason: str | None = None
    remedy: str | None = None


FINE = Finding(Status.OK)
Check = Callable[[], Finding]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """How a part is, and since when it has had this status."""

    status: Status = Status.OK
    since: datetime
    reason: str | None = None
    remedy: str | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the whole process is: the status, reason and remedy of its worst part, and every part by name."""

    status: Status
    since: datetime
    reason: str | None = None
    remedy: str | None = None
    parts: dict[str, Part] = {}


class Board:
    """Looks at the parts by their `checks`; `now()` is the time that `since` is in.

    One that is not `essential` makes the whole degraded at worst.
    """

    def __init__(self, checks: Mapping[str, Check], *, essential: Iterable[str], now: Callable[[], datetime]) -> None:
        self._checks = checks
        self._essential = frozenset(essential)
        self._now = now
        self._parts: dict[str, Part] = {}
        self._whole: Part | None = None

    def look(self) -> Health:
        """Look at every part; `since` is when a status was first seen."""
        at = self._now()
        self._parts = {name: _part(check(), self._parts.get(name), at) for name, check in self._checks.items()}
        worst = max(self._parts, key=lambda name: _BADNESS[self._weight(name)])
        part = self._parts[worst]
        name = "" if worst == PROCESS else f"{worst}: "
        reason = f"{name}{part.reason}" if part.reason else None
        self._whole = _part(Finding(self._weight(worst), reason, part.remedy), self._whole, at)
        return Health(**msgspec.structs.asdict(self._whole), parts=self._parts)

    def _weight(self, name: str) -> Status:
        status = self._parts[name].status
        return status if name in self._essential or status is Status.OK else Status.DEGRADED


def _part(found: Finding, before: Part | None, at: datetime) -> Part:
    since = before.since if before is not None and before.status is found.status else at
    return Part(status=found.status, since=since, reason=found.reason, remedy=found.remedy)
