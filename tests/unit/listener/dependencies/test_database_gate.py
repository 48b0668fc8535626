"""The gate in front of PostgreSQL: no work begins while PostgreSQL takes no writes."""

from __future__ import annotations

import asyncio

import pytest

from oncecast.core.errors import RowLocked
from oncecast.core.telemetry import DependencyLost, DependencyReady, DependencyTried
from oncecast.listener.dependencies.gates import SLOW_S, WAITED_FOR_S
from oncecast.testing.memory import MemoryEvents
from tests.simulation.clock import VirtualClock
from tests.support.arrivals import arrivals
from tests.support.memory_servers import PROBE_INTERVAL_S, REFUSED, MemoryServers
from tests.support.virtual_time import in_virtual_time, running

LOST = DependencyLost("database", "connection refused")
TRIED, READY = DependencyTried("database"), DependencyReady("database")
DOWN = ConnectionRefusedError("connection refused")
PROBED_AFTER_S = PROBE_INTERVAL_S + 0.1


@in_virtual_time
async def test_work_waits_from_when_the_tries_are_used_up_until_a_probe_has_written(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    at.to_postgres.error = DOWN
    at.database.lost(REFUSED)
    waiting = asyncio.ensure_future(at.database.wait())
    async with running(at.database.probe_loop()):
        await clock.sleep(10 * PROBE_INTERVAL_S)
        assert (at.database.is_up, waiting.done()) == (False, False)
        at.to_postgres.error = None
        await clock.sleep(PROBED_AFTER_S)
    assert (at.database.is_up, waiting.done(), at.database.fault) == (True, True, None)
    assert at.telemetry_events == [LOST, TRIED, READY]


@in_virtual_time
async def test_an_outage_pauses_the_listener_once_however_many_attempts_fail(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    for _ in range(3):
        at.database.lost(REFUSED)
    assert (at.pauses, at.telemetry_events) == (1, [LOST])


@in_virtual_time
async def test_a_second_outage_pauses_the_listener_again(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    async with running(at.database.probe_loop()):
        for _ in range(2):
            at.database.lost(REFUSED)
            await clock.sleep(PROBED_AFTER_S)
    assert (at.pauses, at.telemetry_events) == (2, [LOST, TRIED, READY] * 2)


@in_virtual_time
async def test_while_it_is_down_postgresql_is_probed_at_the_interval_that_is_set(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    at.to_postgres.error = DOWN
    at.database.lost(REFUSED)
    async with running(at.database.probe_loop()):
        await clock.sleep(9 * PROBE_INTERVAL_S + PROBED_AFTER_S)
    assert at.to_postgres.calls == 10


class ProbedEvents(MemoryEvents):
    """Its probe's table may be locked; counts how often its connections are renewed."""

    is_locked = False
    renewals = 0

    async def probe(self, *, writes: bool = True) -> None:
        if self.is_locked:
            raise RowLocked("the table of probes")
        await super().probe(writes=writes)

    async def renew(self) -> None:
        self.renewals += 1


@in_virtual_time
async def test_connections_from_before_an_outage_are_not_used_again(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    events = ProbedEvents(at.postgres, instance="a", token="a", call=at.to_postgres.call)
    gate = at.database_gate(events)
    gate.lost(REFUSED)
    async with running(gate.probe_loop()):
        at.to_postgres.error = DOWN
        await clock.sleep(2 * PROBE_INTERVAL_S)
        assert events.renewals == 0
        at.to_postgres.error = None
        await clock.sleep(PROBED_AFTER_S)
    assert (gate.is_up, events.renewals) == (True, 1)


@in_virtual_time
async def test_a_lock_on_the_table_of_probes_shows_that_postgresql_answers(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    events = ProbedEvents(at.postgres, instance="a", token="a")
    events.is_locked = True
    gate = at.database_gate(events)
    gate.lost(REFUSED)
    async with running(gate.probe_loop()):
        await clock.sleep(PROBED_AFTER_S)
    assert gate.is_up


@in_virtual_time
async def test_an_attempt_that_takes_long_has_postgresql_probed_which_may_pause_all_work(
    clock: VirtualClock,
) -> None:
    at = MemoryServers(clock)
    at.to_postgres.error = DOWN
    async with running(at.database.probe_loop()):
        await clock.sleep(2 * SLOW_S)
        assert at.to_postgres.calls == 0
        at.database.asked(arrivals(1)[0])
        await clock.sleep(SLOW_S - 1.0)
        assert (at.to_postgres.calls, at.database.is_up) == (0, True)
        await clock.sleep(2.0)
    assert at.telemetry_events[0] == DependencyLost(
        "database", "PostgreSQL: ConnectionRefusedError: connection refused"
    )


@in_virtual_time
async def test_an_attempt_that_takes_long_on_a_healthy_postgresql_pauses_nothing(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    at.database.asked(arrivals(1)[0])
    async with running(at.database.probe_loop()):
        await clock.sleep(5 * SLOW_S)
    assert (at.database.is_up, at.telemetry_events) == (True, [])
    assert at.to_postgres.calls in (4, 5)


@in_virtual_time
async def test_an_attempt_waits_for_postgresql_only_once_it_has_taken_a_while(clock: VirtualClock) -> None:
    gate = MemoryServers(clock).database
    first, second = arrivals(2)
    gate.asked(first)
    found = [gate.is_waited_for]
    await clock.sleep(WAITED_FOR_S + 0.01)
    gate.asked(second)
    found.append(gate.is_waited_for)
    gate.answered(first)
    found.append(gate.is_waited_for)
    assert found == [False, True, False]


@in_virtual_time
async def test_the_time_of_the_last_success_is_that_of_the_last_attempt_without_an_error(clock: VirtualClock) -> None:
    gate = MemoryServers(clock).database
    ended_at_s = []
    for error in (None, ValueError("no"), REFUSED, None):
        (arrival,) = arrivals(1)
        gate.asked(arrival)
        await clock.sleep(1.0)
        gate.answered(arrival, error)
        ended_at_s.append(gate.ended_at_s - 1_000.0)
    assert ended_at_s == [1.0, 1.0, 1.0, 4.0]


@in_virtual_time
async def test_an_answer_while_work_is_paused_does_not_end_the_outage(clock: VirtualClock) -> None:
    at = MemoryServers(clock)
    at.database.lost(REFUSED)
    at.database.report_up()
    assert (at.database.fault, at.telemetry_events) == ("connection refused", [LOST])


@pytest.mark.parametrize("goes_down", [True, False])
@in_virtual_time
async def test_a_wait_for_an_outage_ends_with_it_or_in_time(clock: VirtualClock, goes_down: bool) -> None:
    gate = MemoryServers(clock).database
    waiting = asyncio.ensure_future(gate.wait_down(5.0))
    await clock.sleep(1.0)
    if goes_down:
        gate.lost(REFUSED)
    assert await waiting is goes_down
    assert clock.monotonic_s() == (1_001.0 if goes_down else 1_005.0)
