"""The journal lets go of what nobody needs, keeps what somebody has not processed, and says no rather than lose."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.groups import FIRST_TO_JOIN
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
"""In a batch of its own it takes 100 bytes."""
CAP_BYTES = 2_000
WIRE = asyncio.Queue[Any]()
SOCKET = WebSocket({"type": "websocket"}, WIRE.get, WIRE.put)
"""Nobody is at its other end."""


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


async def test_a_group_that_has_never_come_holds_everything_back_until_publishing_is_refused() -> None:
    at = Harness()
    await at.publish(20)
    await at.retention.tick()
    assert (at.journal.first, at.journal.last) == (1, 20)
    assert at.refusal() == (
        "the journal is full: the group 'oncecast' has not processed 20 events; nothing was accepted; start its"
        " listeners, raise JOURNAL_MAX_BYTES, or give the group up: oncecast groups forget oncecast"
    )


async def test_everything_is_kept_for_the_first_group_to_join_whichever_it_is_and_no_longer_than_that() -> None:
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
    assert [group["name"] for group in at.retention.groups_status()] == ["shop"]


async def test_after_a_restart_nobody_waits_for_the_first_group_again() -> None:
    kept = Kept.new(SYSTEM_CLOCK)
    first = Harness(kept, initial_groups=(FIRST_TO_JOIN,))
    first.connect("shop", None)
    await first.retention.tick()
    again = Harness(kept, initial_groups=(FIRST_TO_JOIN,))
    await again.publish(20)
    await again.retention.forget("shop")
    await again.retention.tick()
    assert again.journal.first == 3


async def test_the_first_group_is_waited_for_until_it_expires_or_an_operator_gives_it_up() -> None:
    for expires in (True, False):
        at = Harness(initial_groups=(FIRST_TO_JOIN,), group_expires_s=100.0)
        await at.publish(20)
        await at.retention.tick()
        assert at.refusal() is not None
        await (at.pass_time(120) if expires else at.retention.forget(FIRST_TO_JOIN))
        await at.retention.tick()
        assert (at.journal.first, at.refusal()) == (3, None)


async def test_events_are_kept_for_no_group_where_that_is_said() -> None:
    at = Harness(initial_groups=())
    await at.publish(20)
    await at.retention.tick()
    assert (at.journal.first, at.refusal()) == (3, None)


async def test_who_was_waited_for_by_another_setting_is_waited_for_no_more() -> None:
    kept = Kept.new(SYSTEM_CLOCK)
    await Harness(kept, initial_groups=(FIRST_TO_JOIN,)).retention.tick()
    at = Harness(kept, initial_groups=("shop",))
    await at.publish(20)
    at.connect("shop", 15)
    await at.retention.tick()
    assert at.journal.first == 3


async def test_what_every_group_has_goes_when_the_journal_is_nearly_full_oldest_first() -> None:
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


async def test_retention_goes_by_what_the_most_ignorant_of_a_groups_listeners_knows_to_be_saved() -> None:
    """After a database's restore a listener may report less than another did a moment before."""
    at = Harness()
    await at.publish(20)
    at.connect("oncecast", 18)
    at.connect("oncecast", 2)
    at.connect("oncecast", None)
    await at.retention.tick()
    assert at.journal.first == 3


async def test_what_is_older_than_the_greatest_age_goes_once_every_group_has_it() -> None:
    at = Harness(max_age_s=10.0)
    await at.publish(5)
    at.connect("oncecast", 3)
    await at.pass_time(20)
    assert at.journal.first == 4


async def test_a_group_that_is_unseen_for_too_long_holds_nothing_back_and_that_is_told() -> None:
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


async def test_a_producer_that_was_frozen_for_long_could_have_seen_nobody_and_lets_go_of_nothing() -> None:
    at = Harness(group_expires_s=100.0)
    await at.publish(20)
    await at.retention.tick()
    at.clock.now_s += 1_000_000.0
    await at.retention.tick()
    assert at.journal.first == 1


async def test_the_time_for_which_a_group_is_unseen_goes_on_after_a_restart_and_ends_when_it_comes() -> None:
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


async def test_a_forgotten_group_blocks_nobody_until_it_comes_again() -> None:
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


async def test_a_filling_journal_is_told_from_seventy_percent_on_with_the_group_that_holds_it_back() -> None:
    at = Harness()
    told: list[tuple[int, str]] = []
    for _ in range(20):
        await at.publish(1)
        await at.retention.tick()
        told = [
            (telemetry.percent, telemetry.group)
            for telemetry in at.telemetry_events
            if isinstance(telemetry, JournalFilling)
        ]
    assert told == [(n, "oncecast") for n in (70, 75, 80, 85, 90, 95, 100)]
    status = at.retention.journal_status()
    assert (status["held_back_by"], status["bytes"], status["max_bytes"]) == ("oncecast", 2000, CAP_BYTES)
