"""Delete old events from the journal, by age and size, but never past the saved cursor of a known group.

A group is known from the start (`INITIAL_GROUPS`) or once a listener of it joins. Events that it has not processed
are kept until an operator forgets the group, or no listener of it has joined for `GROUP_EXPIRES`. If such events
fill the journal, publishing is refused, and no event is lost. All events are kept until the first group joins.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from oncecast.core.clock import Clock
from oncecast.core.errors import JournalCorrupt, JournalMisplaced, JournalUnavailable
from oncecast.core.event import Cursor
from oncecast.core.groups import FIRST_TO_JOIN
from oncecast.core.health import FINE, Finding, Status
from oncecast.core.journal import JournalBatch, KnownGroup
from oncecast.core.ports import Journal
from oncecast.core.telemetry import GroupExpired, JournalFilling, Record
from oncecast.core.wire import Count, epoch_of
from oncecast.http.problems import Problem
from oncecast.producer.broadcast.listeners import ListenerHub
from oncecast.producer.broadcast.session import start_after
from oncecast.tasks import STALL_S, working

TICK_S = 2.0
RATE_OVER_S = 60.0
"""The rate at which the journal grows is measured over this time."""
KEEP_INTERVAL_S = 30.0
PASSED_MAX_S = 60.0
"""The time counted between two ticks at most: a longer pause means that this process was frozen."""
FULL_AT = 0.95
"""The part of `max_bytes` from which events that no group needs are deleted."""
EMPTY_TO = 0.9
WARN_AT_PERCENT = 70
WARN_EVERY_PERCENT = 5
DISK = "make room on the disk of JOURNAL_PATH, or repair it; the producer retries automatically"
PLACE = (
    "stop the producer and put the file back; if it is gone, let the listeners catch up, then restart the producer"
)
DAMAGE = "run 'oncecast journal check', and restore a backup of the file or give the events up with 'journal skip'"
RETRY_AFTER = {"Retry-After": "5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionLimits:
    """The size and age of kept events, the initial groups, and when an absent group expires."""

    max_bytes: int = 10 * 1024**3
    max_age_s: float = 7 * 86_400.0
    initial_groups: Sequence[str] = (FIRST_TO_JOIN,)
    group_expires_s: float = 7 * 86_400.0


class JournalStatus(msgspec.Struct):
    """How full a journal is; `held_back_by` names a group whose events use much of `max_bytes`."""

    name: str
    epoch: str
    first: Count
    last: Count
    bytes: Count
    max_bytes: Count
    max_age_s: float
    unsettled_percent: Count
    held_back_by: str | None


class GroupStatus(msgspec.Struct):
    """A group that events are kept for."""

    name: str
    cursor: str
    behind: Count
    connected: Count
    unseen_s: float
    expired: bool
    forgotten: bool
    oldest_unfinished_s: float | None
    """The age of the oldest event that it has not processed; 0 if there is none, null if it cannot be read."""
    moved_at: float
    """When its saved cursor last moved, as Unix time in seconds; since the start of the producer at the earliest."""


@dataclass(slots=True)
class _Progress:
    """When the saved cursor of a group came to `saved`, and when the next event was accepted, if it is known."""

    saved: int
    moved_at_s: float
    next_at_us: int | None = None


class Retention:
    """Deletes events that no group needs, and refuses publishing when the journal is full."""

    def __init__(
        self, journal: Journal, hub: ListenerHub, clock: Clock, limits: RetentionLimits, record: Record
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._hub = hub
        self._limits = limits
        self._record = record
        self._groups = self._known_groups()
        self._kept_at_s = self._ticked_at_s = clock.monotonic_s()
        self._full = asyncio.Event()
        self._warned_percent = 0
        self._progress: dict[str, _Progress] = {}
        self._appended_bytes = 0
        self._growth: deque[tuple[float, int]] = deque([(self._ticked_at_s, 0)])
        """The appended bytes at the last ticks, by monotonic time."""
        journal.on_commit(self._on_commit)

    # --- room ----------------------------------------------------------------------------------------------

    def check_room(self) -> None:
        """Raise Problem 503 while the journal may not grow."""
        if self._journal.used_bytes < self._limits.max_bytes:
            return
        self._full.set()
        reason, remedy = self._full_because(self.slowest_group())
        detail = f"the journal is full: {reason}; nothing was accepted; {remedy}"
        raise Problem(503, detail, headers=RETRY_AFTER, kind="journal_full")

    def _full_because(self, slowest: KnownGroup | None) -> tuple[str, str]:
        return self._explain(slowest) if slowest else ("old events are being deleted", "try again")

    def _explain(self, slowest: KnownGroup) -> tuple[str, str]:
        """Return why there is no room, and what an operator can do."""
        count = self._behind(slowest)
        if slowest.name == FIRST_TO_JOIN:
            reason = f"{count:,} events are kept for the first group to join, and no listener has joined"
            return (
                reason,
                f"start a listener, raise JOURNAL_MAX_BYTES, or run: oncecast groups forget {FIRST_TO_JOIN}",
            )
        reason = f"the group {slowest.name!r} has not processed {count:,} events"
        forget = f"oncecast groups forget {shlex.quote(slowest.name)}"
        return reason, f"start its listeners, raise JOURNAL_MAX_BYTES, or give the group up: {forget}"

    def find_journal(self) -> Finding:
        """Return the journal's health: whether it accepts events, and all its events can be read."""
        journal, slowest = self._journal, self.slowest_group()
        if (failing := journal.failing) is not None:
            remedy = PLACE if isinstance(failing, JournalMisplaced) else DISK
            return Finding(Status.DOWN, str(failing), remedy)
        if journal.used_bytes >= self._limits.max_bytes:
            reason, remedy = self._full_because(slowest)
            return Finding(Status.DOWN, f"the journal is full: {reason}", remedy)
        if journal.damage is not None:
            return Finding(Status.DEGRADED, journal.damage, DAMAGE)
        percent = self.unsettled_percent(slowest)
        if slowest is not None and percent >= WARN_AT_PERCENT:
            reason, remedy = self._explain(slowest)
            return Finding(Status.DEGRADED, f"{percent} % of JOURNAL_MAX_BYTES is in use: {reason}", remedy)
        return FINE

    def find_groups(self) -> Finding:
        """Return the health of the groups: degraded if events wait for one that has no listener."""
        for group in self._groups.values():
            count = self._behind(group)
            if group.name != FIRST_TO_JOIN and count and self._holds(group) and not self._connected(group.name):
                waiting = "1 event waits" if count == 1 else f"{count:,} events wait"
                reason = f"the group {group.name} has no listener, and {waiting} for it"
                forget = f"oncecast groups forget {shlex.quote(group.name)}"
                return Finding(Status.DEGRADED, reason, f"start its listeners, or give the group up: {forget}")
        return FINE

    def slowest_group(self) -> KnownGroup | None:
        """Return the group that is furthest behind, if any group holds events back."""
        holding = [group for group in self._groups.values() if self._holds(group)]
        furthest = min(holding, key=lambda group: group.saved, default=None)
        return furthest if furthest is not None and furthest.saved < self._journal.last else None

    def _on_commit(self, batches: Sequence[JournalBatch]) -> None:
        self._appended_bytes += sum(len(batch.body) for batch in batches)
        if self._journal.used_bytes >= self._limits.max_bytes * FULL_AT:
            self._full.set()

    def _known_groups(self) -> dict[str, KnownGroup]:
        """Return the saved groups. Once a group has joined, FIRST_TO_JOIN holds nothing back."""
        known = dict(self._journal.groups)
        if FIRST_TO_JOIN not in self._limits.initial_groups:
            known.pop(FIRST_TO_JOIN, None)
        elif known:
            first = known.get(FIRST_TO_JOIN, KnownGroup(FIRST_TO_JOIN, 0))
            known[FIRST_TO_JOIN] = replace(first, forgotten=first.forgotten or len(known) > 1)
        return known

    def _holds(self, group: KnownGroup) -> bool:
        return not group.forgotten and not self._expired(group)

    def _expired(self, group: KnownGroup) -> bool:
        return group.unseen_s > self._limits.group_expires_s

    def _behind(self, group: KnownGroup) -> int:
        return max(0, self._journal.last - max(group.saved, self._journal.first - 1))

    # --- maintenance------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tick every TICK_S, and at once when the journal is nearly full."""
        while True:
            working(STALL_S)
            with contextlib.suppress(JournalUnavailable):  # already reported; the next tick retries
                await self.tick()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._full.wait()
                    await self._clock.sleep(TICK_S / 10)
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """Save the groups' cursors, then delete events that are too old or too many."""
        self._full.clear()
        now_s = self._clock.monotonic_s()
        self._growth.append((now_s, self._appended_bytes))
        while now_s - self._growth[0][0] > RATE_OVER_S and len(self._growth) > 1:
            self._growth.popleft()
        if self._update_groups():
            await self._journal.keep_groups(list(self._groups.values()))
            self._kept_at_s = self._ticked_at_s
        await self._follow_progress()
        slowest = self.slowest_group()
        await self._journal.retire(
            # rule: retention never passes the saved cursor of a group
            self._journal.last if slowest is None else slowest.saved,
            before_us=int((self._clock.unix_s() - self._limits.max_age_s) * 1e6),
            keep_bytes=int(self._limits.max_bytes * EMPTY_TO) if self._is_nearly_full else 2**62,
        )
        self._warn(slowest)

    @property
    def _is_nearly_full(self) -> bool:
        return self._journal.used_bytes >= self._limits.max_bytes * FULL_AT

    def _update_groups(self) -> bool:
        """Update the groups from connected listeners; return whether to save them now.

        Saved cursors may be outdated: then a group holds more events back, which is safe.
        """
        now_s = self._clock.monotonic_s()
        passed_s, self._ticked_at_s = min(now_s - self._ticked_at_s, PASSED_MAX_S), now_s
        connected = {reader.group for reader in self._hub.readers if reader.group}
        is_news = now_s - self._kept_at_s >= KEEP_INTERVAL_S
        for name in {*self._groups, *connected, *self._limits.initial_groups}:
            before = self._groups.get(name)
            group = before or KnownGroup(name, self._journal.first - 1)
            if name == FIRST_TO_JOIN and connected:
                group = replace(group, forgotten=True)
            elif name in connected:
                group = replace(group, saved=self._saved(group), unseen_s=0.0, forgotten=False)
            else:
                group = replace(group, unseen_s=group.unseen_s + passed_s)
            if self._expired(group) and before is not None and not self._expired(before):
                self._record(GroupExpired(name))
            is_news |= before is None or before.forgotten != group.forgotten
            self._groups[name] = group
        return is_news

    async def _follow_progress(self) -> None:
        """Record when each group's cursor has moved, and when the event after it was accepted."""
        now_s = self._clock.unix_s()
        for name, group in self._groups.items():
            progress = self._progress.get(name)
            if progress is None or progress.saved != group.saved:
                progress = self._progress[name] = _Progress(group.saved, now_s)
            if progress.next_at_us is None and self._holds(group) and group.saved < self._journal.last:
                try:
                    found = await self._journal.read(group.saved, 1, 1)
                except JournalCorrupt:  # already reported; other groups may be at readable offsets
                    continue
                except JournalUnavailable:
                    return
                progress.next_at_us = found[0].at_us if found else None

    def _saved(self, group: KnownGroup) -> int:
        """Return the smallest saved offset of the group's listeners; it decreases after a restore of PostgreSQL."""
        reported = []
        for reader in self._hub.readers:
            if reader.group == group.name and reader.report.cursor is not None:
                try:
                    reported.append(start_after(self._journal, Cursor.parse(reader.report.cursor)))
                except ValueError:
                    continue
        return min(reported, default=group.saved)

    def _warn(self, slowest: KnownGroup | None) -> None:
        percent = self.unsettled_percent(slowest)
        if percent < WARN_AT_PERCENT:
            self._warned_percent = 0
        elif slowest is not None and percent >= self._warned_percent + WARN_EVERY_PERCENT:
            self._warned_percent = percent
            self._record(JournalFilling(percent, slowest.name))

    def unsettled_percent(self, slowest: KnownGroup | None) -> int:
        """Estimate the part of `max_bytes` that is held back, as if all events had one size."""
        count = self._journal.last - self._journal.first + 1
        if slowest is None or count <= 0:
            return 0
        return round(100 * self._journal.used_bytes * self._behind(slowest) / count / self._limits.max_bytes)

    # --- for operators -------------------------------------------------------------------------------------

    def journal_status(self) -> JournalStatus:
        """Return the answer of `/api/journal`; `held_back_by` names a group whose events use much of `max_bytes`."""
        journal, slowest = self._journal, self.slowest_group()
        percent = self.unsettled_percent(slowest)
        return JournalStatus(
            name=journal.name,
            epoch=journal.epochs[-1].epoch,
            first=journal.first,
            last=journal.last,
            bytes=journal.used_bytes,
            max_bytes=self._limits.max_bytes,
            max_age_s=self._limits.max_age_s,
            unsettled_percent=percent,
            held_back_by=slowest.name if slowest is not None and percent >= WARN_AT_PERCENT else None,
        )

    def groups_status(self) -> list[GroupStatus]:
        """Return the answer of `/api/groups`."""
        return [
            GroupStatus(
                name=group.name,
                cursor=str(Cursor(epoch_of(self._journal.epochs, max(1, group.saved)), group.saved)),
                behind=self._behind(group),
                connected=self._connected(group.name),
                unseen_s=round(group.unseen_s, 1),
                expired=self._expired(group),
                forgotten=group.forgotten,
                oldest_unfinished_s=self._oldest_unfinished_s(group),
                moved_at=self._progress[group.name].moved_at_s if group.name in self._progress else 0.0,
            )
            for group in sorted(self._groups.values(), key=lambda group: group.name)
            if group.name != FIRST_TO_JOIN or self._holds(group)
        ]

    def _oldest_unfinished_s(self, group: KnownGroup) -> float | None:
        progress = self._progress.get(group.name)
        if progress is None or not self._holds(group) or group.saved >= self._journal.last:
            return 0.0
        if progress.next_at_us is None:
            return None
        return max(0.0, round(self._clock.unix_s() - progress.next_at_us / 1e6, 3))

    def headroom_s(self) -> float | None:
        """Return in how many seconds the journal would be full if no group processed anything more.

        It is taken to grow at the rate of the last minute; without a rate, return None.
        """
        began_s, before_bytes = self._growth[0]
        appended_bytes, passed_s = self._appended_bytes - before_bytes, self._clock.monotonic_s() - began_s
        if appended_bytes <= 0 or passed_s <= 0:
            return None
        free_ratio = max(0.0, 1 - self.unsettled_percent(self.slowest_group()) / 100)
        return free_ratio * self._limits.max_bytes * passed_s / appended_bytes

    def knows(self, name: str) -> bool:
        """Return whether there is, or was, such a group."""
        return name in self._groups

    async def forget(self, name: str) -> None:
        """Keep no events for a group until it joins again; raises Problem 404 or 409, or JournalUnavailable."""
        group = self._groups.get(name)
        if group is None:
            raise Problem(404, f"there is no group {name[:100]!r}")
        if self._connected(name):
            raise Problem(409, f"listeners of {name!r} are connected: stop them first")
        forgotten = replace(group, forgotten=True)
        await self._journal.keep_groups([forgotten])
        self._groups[name] = forgotten
        self._full.set()

    def _connected(self, name: str) -> int:
        return sum(reader.group == name for reader in self._hub.readers)
