"""The health of a process, as shown by `/health`, `/readyz`, metrics, commands and the page.

A process has *parts*: its dependencies and itself. A *finding* is the status of one part now; a Board remembers since
when. The whole has the status of its worst part, and is only degraded by a part that is not essential.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec


class Status(StrEnum):
    """`degraded`: works with limits. `down`: does not work. `draining`: finishes its work and stops."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"
    DRAINING = "draining"

    @classmethod
    def _missing_(cls, value: object) -> Status:
        """Return `degraded` for a status of a later version."""
        return cls.DEGRADED

    @property
    def is_ready(self) -> bool:
        """Whether the process does its work."""
        return self in (Status.OK, Status.DEGRADED)


_BADNESS = {status: rank for rank, status in enumerate(Status)}
_Time = Annotated[datetime, msgspec.Meta(extra_json_schema={"format": "date-time"})]
PROCESS = "process"
"""The part that is the process itself."""


class Finding(NamedTuple):
    """The status of a part now, with the reason and the remedy if it is not ok."""

    status: Status
    reason: str | None = None
    remedy: str | None = None


FINE = Finding(Status.OK)
Check = Callable[[], Finding]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a part, and since when."""

    status: Status = Status.OK
    since: _Time
    reason: str | None = None
    remedy: str | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The health of a process: status, reason and remedy of its worst part, and all parts by name."""

    status: Status
    since: _Time
    reason: str | None = None
    remedy: str | None = None
    parts: dict[str, Part] = {}


class Board:
    """Checks the parts of a process and remembers since when each has its status; `now` returns the time.

    A part that is not `essential` makes the whole degraded at worst.
    """

    def __init__(self, checks: Mapping[str, Check], *, essential: Iterable[str], now: Callable[[], datetime]) -> None:
        self._checks = checks
        self._essential = frozenset(essential)
        self._now = now
        self._parts: dict[str, Part] = {}
        self._whole: Part | None = None

    def check(self) -> Health:
        """Check every part; `since` is when its status was first seen."""
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
