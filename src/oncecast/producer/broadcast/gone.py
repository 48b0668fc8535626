"""Listeners that have gone: they stay listed until they return, are dismissed, or are forgotten after a while."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from oncecast.core.clock import Clock, utc_now
from oncecast.core.health import Health, Status
from oncecast.core.wire import ListenerReport

STOPPED_KEPT_S = timedelta(minutes=10).total_seconds()
GONE_KEPT_S = timedelta(days=1).total_seconds()
GONE_MAX = 100
"""The oldest is forgotten for a newer one."""
_STOPPED = "it has stopped"
_GONE = "it disconnected without stopping: it was killed, or the network failed"
_REPLACED = "it has gone, and another listener has joined its group since"
_REMEDY = "start it again; if it will not return, dismiss it on the page"

Member = tuple[str, str]
"""The group and the instance of a listener."""


class GoneListener(msgspec.Struct, frozen=True):
    """A listener that is not connected any more, with its last report."""

    instance: str
    group: str
    report: ListenerReport
    health: Health
    left_at_s: float
    has_stopped: bool
    """Whether it ended its connection as a stopping listener does, or another one has taken its place."""


class GoneListeners:
    """The listeners that have gone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gone: dict[Member, GoneListener] = {}

    def left(self, member: Member, report: ListenerReport, *, has_stopped: bool) -> None:
        """Keep a listener whose connection has ended."""
        now = utc_now(self._clock)
        if has_stopped:
            health = Health(status=Status.DRAINING, since=now, reason=_STOPPED)
        else:
            health = Health(status=Status.DOWN, since=now, reason=_GONE, remedy=_REMEDY)
        group, instance = member
        self._gone.pop(member, None)
        self._gone[member] = GoneListener(instance, group, report, health, self._clock.monotonic_s(), has_stopped)
        if len(self._gone) > GONE_MAX:
            del self._gone[next(iter(self._gone))]

    def joined(self, member: Member) -> None:
        """Forget a listener that is connected again; one with a new name takes the place of those that have gone."""
        if self._gone.pop(member, None) is None:
            for other, each in self._gone.items():
                if each.group == member[0] and not each.has_stopped:
                    health = Health(status=Status.DRAINING, since=each.health.since, reason=_REPLACED)
                    self._gone[other] = msgspec.structs.replace(each, health=health, has_stopped=True)

    def dismiss(self, member: Member) -> bool:
        """Forget a listener that will not return; return whether it was listed."""
        return self._gone.pop(member, None) is not None

    def listed(self) -> list[GoneListener]:
        """Return the listeners that have gone lately."""
        now_s = self._clock.monotonic_s()
        self._gone = {
            member: each
            for member, each in self._gone.items()
            if now_s - each.left_at_s < (STOPPED_KEPT_S if each.has_stopped else GONE_KEPT_S)
        }
        return list(self._gone.values())
