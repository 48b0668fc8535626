"""Retention deletes events that no group needs, keeps the others, and refuses publishing rather than lose one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.groups import FIRST_TO_JOIN
from oncecast.core.health import Status
from oncecast.core.telemetry import GroupExpired, JournalFilling, TelemetryEvent
from oncecast.core.wire import ListenerReport
from oncecast.http.problems import Problem
from oncecast.producer.broadcast.listeners import ListenerHub, ListenerReader
from oncecast.producer.broadcast.reading import ReadBudget
from oncecast.producer.broadcast.ring import Ring
from oncecast.producer.broadcast.session import SocketLimits
from oncecast.producer.retention import Retention, RetentionLimits
from oncecast.testing.memory.journal import Kept, MemoryJournal
from tests.support.clock import ManualClock

EVENT = b'"' + b"x" * 96 + b'"'
"""An event whose batch has 100 bytes."""
CAP_BYTES = 2_000
WIRE = asyncio.Queue[Any]()
SOCKET = WebSocket({"type": "websocket"}, WIRE.get, WIRE.put)
"""A socket without a peer."""


class Harness:
    def __init__(self, kept: Kept | None = None, **limits: Any) -> None:
        clock = self.clock = ManualClock()
        self.journal = MemoryJournal(clock, kept)
        self.telemetry_events: list[TelemetryEvent] = []
        self.hub = ListenerHub(
            self.journal,
            Ring(self.journal, 0),
            ReadBudget(clock),
            clock,
            SocketLimits(),
            self.telemetry_events.append,
        )
        defaults = {"max_bytes": CAP_BYTES, "max_age_s": 8e9, "initial_groups": ("oncecast",)}
        self.retention = Retention(
            self.journal, self.hub, clock, RetentionLimits(**{**defaults, **limits}), self.telemetry_events.append
        )

    async def publish(self, count: int) -> None:
        for _ in range(count):
            await self.journal.append([EVENT])

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 10)):
            self.clock.now_s += 10
            await self.retention.tick()

    def connect(self, group: str, saved: int | None) -> ListenerReader:
        reader = ListenerReader(SOCKET, "a", group, 0, self.clock, 30.0)
        self.hub.readers.append(reader)
        if saved is not None:
            self.report(reader, saved)
        return reader

    def report(self, reader: ListenerReader, saved: int) -> None:
        reader.report = ListenerReport(cursor=f"{self.journal.epochs[-1].epoch}:{saved}")

    def refusal(self) -> str | None:
        try:
            self.retention.check_room()
        except Problem as problem:
            assert (problem.status, "Retry-After" in problem.headers) == (503, True)
            return problem.detail
        return None


async def test_an_absent_initial_group_holds_back_events_until_publishing_is_refused() -> None:
    at = Harness()
    await at.publish(20)
    await at.retention.tick()
    assert (at.journal.first, at.journal.last) == (1, 20)
    assert at.refusal() == (
        "the journal is full: the group 'oncecast' has not processed 20 events; nothing was accepted; start its"
        " listeners, raise JOURNAL_MAX_BYTES, or give the group up: oncecast groups forget oncecast"
    )


async def test_all_events_are_kept_until_the_first_group_joins() -> None:
    at = Harness(initial_groups=(FIRST_TO_JOIN,))
    await at.publish(20)
    await at.retention.tick()
    assert at.journal.first == 1
    assert at.refusal() == (
        "the journal is full: 20 events are kept for the first group to join, and no listener has joined; nothing was"
        " accepted; start a listener, raise JOURNAL_MAX_BYTES, or run: oncecast groups forget first-to-join"
    )
    reader = at.connect("shop", None)
    await at.retention.tick()
    assert (at.journal.first, at.journal.groups["shop"].saved) == (1, 0), "it has everything before it"
    at.report(reader, 15)
    await at.retention.tick()
    assert (at.journal.first, at.refusal()) == (3, None)
    assert [group.name for group in at.retention.groups_status()] == ["shop"]


async def test_a_restart_does_not_wait_for_a_first_group_again() -> None:
    kept = Kept.new(SYSTEM_CLOCK)
    first = Harness(kept, initial_groups=(FIRST_TO_JOIN,))
    first.connect("shop", None)
    await first.retention.tick()
    again = Harness(kept, initial_groups=(FIRST_TO_JOIN,))
    await again.publish(20)
    await again.retention.forget("shop")
    await again.retention.tick()
    assert again.journal.first == 3


async def test_the_wait_for_the_first_group_ends_on_expiry_or_by_an_operator() -> None:
    for expires in (True, False):
        at = Harness(initial_groups=(FIRST_TO_JOIN,), group_expires_s=100.0)
        await at.publish(20)
        await at.retention.tick()
        assert at.refusal() is not None
        await (at.pass_time(120) if expires else at.retention.forget(FIRST_TO_JOIN))
        await at.retention.tick()
        assert (at.journal.first, at.refusal()) == (3, None)


async def test_events_are_kept_for_no_group_by_configuration() -> None:
    at = Harness(initial_groups=())
    await at.publish(20)
    await at.retention.tick()
    assert (at.journal.first, at.refusal()) == (3, None)


async def test_a_changed_setting_ends_the_wait_for_the_first_group() -> None:
    kept = Kept.new(SYSTEM_CLOCK)
    await Harness(kept, initial_groups=(FIRST_TO_JOIN,)).retention.tick()
    at = Harness(kept, initial_groups=("shop",))
    await at.publish(20)
    at.connect("shop", 15)
    await at.retention.tick()
    assert at.journal.first == 3


async def test_a_nearly_full_journal_deletes_the_oldest_processed_events() -> None:
    at = Harness()
    await at.publish(20)
    at.connect("oncecast", 15)
    at.connect("audit", 10)
    await at.retention.tick()
    assert at.journal.first == 3, "down to nine tenths of the cap"
    assert at.refusal() is None
    await at.publish(12)
    await at.retention.tick()
    assert at.journal.first == 11, "audit has not processed what follows"
    assert at.refusal() is not None


async def test_retention_uses_the_smallest_saved_cursor_of_a_group() -> None:
    """After a restore of PostgreSQL, a listener may report a smaller cursor than another one did before."""
    at = Harness()
    await at.publish(20)
    at.connect("oncecast", 18)
    at.connect("oncecast", 2)
    at.connect("oncecast", None)
    await at.retention.tick()
    assert at.journal.first == 3


async def test_old_events_are_deleted_once_every_group_has_processed_them() -> None:
    at = Harness(max_age_s=10.0)
    await at.publish(5)
    at.connect("oncecast", 3)
    await at.pass_time(20)
    assert at.journal.first == 4


async def test_an_expired_group_holds_nothing_back_and_is_reported() -> None:
    at = Harness(group_expires_s=100.0)
    await at.publish(20)
    await at.retention.tick()
    await at.pass_time(90)
    assert at.refusal() is not None
    await at.pass_time(30)
    assert [telemetry for telemetry in at.telemetry_events if isinstance(telemetry, GroupExpired)] == [
        GroupExpired("oncecast")
    ]
    assert at.journal.first == 3
    assert at.refusal() is None


async def test_a_frozen_producer_expires_no_group() -> None:
    at = Harness(group_expires_s=100.0)
    await at.publish(20)
    await at.retention.tick()
    at.clock.now_s += 1_000_000.0
    await at.retention.tick()
    assert at.journal.first == 1


async def test_the_absence_of_a_group_survives_a_restart_and_ends_when_it_joins() -> None:
    kept = Kept.new(SYSTEM_CLOCK)
    first = Harness(kept, group_expires_s=100.0)
    await first.publish(20)
    await first.retention.tick()
    await first.pass_time(60)
    again = Harness(kept, group_expires_s=100.0)
    await again.pass_time(70)
    assert again.journal.first == 3
    reader = again.connect("oncecast", 3)
    await again.retention.tick()
    again.hub.readers.remove(reader)
    await again.publish(3)
    await again.pass_time(60)
    assert again.journal.first == 4, "it holds back again what it has not processed"


async def test_a_forgotten_group_holds_nothing_back_until_it_joins_again() -> None:
    at = Harness()
    await at.publish(20)
    await at.retention.tick()
    await at.retention.forget("oncecast")
    await at.retention.tick()
    assert (at.journal.first, at.refusal()) == (3, None)
    at.connect("oncecast", 4)
    await at.publish(5)
    await at.retention.tick()
    assert at.journal.first == 5
    with pytest.raises(Problem) as raised:
        await at.retention.forget("oncecast")
    assert raised.value.status == 409
    with pytest.raises(Problem) as raised:
        await at.retention.forget("nobody")
    assert raised.value.status == 404


async def test_a_filling_journal_is_reported_with_the_slowest_group() -> None:
    at = Harness()
    reported: list[tuple[int, str]] = []
    for _ in range(20):
        await at.publish(1)
        await at.retention.tick()
        reported = [
            (telemetry.percent, telemetry.group)
            for telemetry in at.telemetry_events
            if isinstance(telemetry, JournalFilling)
        ]
    assert reported == [(n, "oncecast") for n in (70, 75, 80, 85, 90, 95, 100)]
    status = at.retention.journal_status()
    assert (status.held_back_by, status.bytes, status.max_bytes) == ("oncecast", 2000, CAP_BYTES)


async def test_a_group_shows_how_long_its_oldest_event_waits_and_when_its_cursor_moved() -> None:
    harness = Harness()
    reader = harness.connect("shop", 0)
    await harness.publish(2)
    began_at_s = harness.clock.unix_s()
    await harness.pass_time(30)
    (group,) = [each for each in harness.retention.groups_status() if each.name == "shop"]
    assert (group.behind, group.oldest_unfinished_s) == (2, 30.0)
    harness.report(reader, 2)
    await harness.pass_time(10)
    (group,) = [each for each in harness.retention.groups_status() if each.name == "shop"]
    assert (group.behind, group.oldest_unfinished_s, group.moved_at) == (0, 0.0, began_at_s + 40)


async def test_events_that_wait_for_a_group_without_a_listener_are_a_problem_with_a_remedy() -> None:
    harness = Harness(initial_groups=())
    reader = harness.connect("shop", 0)
    await harness.pass_time(10)
    assert harness.retention.find_groups().status is Status.OK
    harness.hub.readers.remove(reader)
    assert harness.retention.find_groups().status is Status.OK, "nothing waits"
    await harness.publish(3)
    found = harness.retention.find_groups()
    assert (found.status, found.reason) == (
        Status.DEGRADED,
        "the group shop has no listener, and 3 events wait for it",
    )
    assert "oncecast groups forget shop" in str(found.remedy)


async def test_the_headroom_is_the_time_until_the_journal_is_full_at_the_recent_rate() -> None:
    harness = Harness()
    assert harness.retention.headroom_s() is None
    await harness.publish(5)
    await harness.pass_time(10)
    assert harness.retention.headroom_s() == pytest.approx((CAP_BYTES - 500) / 50, rel=0.05)
