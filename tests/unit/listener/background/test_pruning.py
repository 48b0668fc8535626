"""Old rows are deleted in small batches, and so are counts of attempts that nobody makes any more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from oncecast.core.attempts import FailedAttempt
from oncecast.core.ports import PrunedRows
from oncecast.core.telemetry import Pruned
from oncecast.listener.background.pruning import ATTEMPTS_OVERDUE_S, CHUNK_ROWS, INTERVAL_S, Pruner
from oncecast.testing.memory import MemoryEvents
from tests.simulation.clock import VirtualClock
from tests.support.memory_servers import PROBE_INTERVAL_S, REFUSED, MemoryServers
from tests.support.places import arrival
from tests.support.virtual_time import in_virtual_time, running

KEEP_S = 3_600.0
ROUND_S = 1.2 * INTERVAL_S
"""In this time every Pruner has begun its next round."""


class AgedEvents(MemoryEvents):
    """Has `old_rows` that are older than any age that it is asked for."""

    def __init__(self, servers: MemoryServers, old_rows: int) -> None:
        super().__init__(servers.postgres, instance="a", token="a", call=servers.to_postgres.call)
        self.old_rows = old_rows
        self.deleted: list[int] = []
        """How many rows each call deleted."""
        self.called_at_s: list[float] = []

    async def prune(self, *, older_than_s: float, limit: int, after: datetime | None = None) -> PrunedRows:
        self.called_at_s.append(asyncio.get_running_loop().time())
        count = min(self.old_rows, limit)
        await self._do(lambda: self.deleted.append(count))
        self.old_rows -= count
        return PrunedRows(count, datetime(2026, 1, 1, tzinfo=UTC))


class Pruning:
    """A Pruner, and what it has to do."""

    def __init__(self, clock: VirtualClock, *, keep_s: float | None = KEEP_S, old_rows: int = 0) -> None:
        self.servers = MemoryServers(clock)
        self.link = self.servers.to_postgres
        self.events = AgedEvents(self.servers, old_rows)
        gate, record = self.servers.database, self.servers.telemetry_events.append
        self.pruner = Pruner(self.events, gate, clock, keep_s=keep_s, record=record)


@in_virtual_time
async def test_all_old_rows_are_deleted_in_batches_and_reported_as_one_number(clock: VirtualClock) -> None:
    at = Pruning(clock, old_rows=2 * CHUNK_ROWS + 1)
    async with running(at.pruner.prune_loop()):
        await clock.sleep(1.0)
    assert at.events.deleted == [CHUNK_ROWS, CHUNK_ROWS, 1, 0]
    assert at.servers.telemetry_events == [Pruned(2 * CHUNK_ROWS + 1)]


@in_virtual_time
async def test_without_old_rows_nothing_is_reported(clock: VirtualClock) -> None:
    at = Pruning(clock)
    async with running(at.pruner.prune_loop()):
        await clock.sleep(ROUND_S)
    assert at.servers.telemetry_events == []


@pytest.mark.parametrize("keep_s", [None, KEEP_S])
@in_virtual_time
async def test_counts_of_attempts_long_overdue_are_deleted_however_long_rows_are_kept(
    clock: VirtualClock, keep_s: float | None
) -> None:
    at = Pruning(clock, keep_s=keep_s)
    given_up, retried = arrival(1), arrival(2)
    await at.events.count_failure(FailedAttempt("x", given_up, "no", next_in_s=0.0))
    await clock.sleep(ATTEMPTS_OVERDUE_S + 1.0)
    await at.events.count_failure(FailedAttempt("y", retried, "no", next_in_s=0.0))
    async with running(at.pruner.prune_loop()):
        await clock.sleep(1.0)
    assert list(at.servers.postgres.tables.attempts) == [retried.identity]


@in_virtual_time
async def test_without_an_age_no_row_is_deleted(clock: VirtualClock) -> None:
    at = Pruning(clock, keep_s=None, old_rows=5)
    async with running(at.pruner.prune_loop()):
        await clock.sleep(ROUND_S)
    assert (at.events.old_rows, at.events.deleted) == (5, [])


@in_virtual_time
async def test_nothing_is_deleted_while_postgresql_is_down(clock: VirtualClock) -> None:
    at = Pruning(clock, old_rows=5)
    at.servers.database.lost(REFUSED)
    async with running(at.pruner.prune_loop()):
        await clock.sleep(ROUND_S)
        assert at.link.calls == 0
        async with running(at.servers.database.probe_loop()):
            await clock.sleep(PROBE_INTERVAL_S + 1.0)
    assert at.events.old_rows == 0


@in_virtual_time
async def test_an_error_of_postgresql_leaves_old_rows_for_the_next_round(clock: VirtualClock) -> None:
    at = Pruning(clock, old_rows=5)
    at.link.error = ConnectionResetError("gone")
    async with running(at.pruner.prune_loop()):
        await clock.sleep(1.0)
        at.link.error = None
        assert at.events.old_rows == 5
        await clock.sleep(ROUND_S)
    assert at.events.old_rows == 0


@pytest.mark.parametrize(("keep_s", "interval_s"), [(KEEP_S, INTERVAL_S), (10.0, 10.0)])
@in_virtual_time
async def test_rows_are_pruned_every_half_minute_or_as_often_as_their_maximum_age(
    clock: VirtualClock, keep_s: float, interval_s: float
) -> None:
    at = Pruning(clock, keep_s=keep_s)
    async with running(at.pruner.prune_loop()):
        await clock.sleep(20 * interval_s)
    waits_s = [later - earlier for earlier, later in pairwise(at.events.called_at_s)]
    assert all(0.8 * interval_s <= wait_s <= 1.2 * interval_s for wait_s in waits_s)
    assert len(set(waits_s)) == len(waits_s) > 10, "listeners of a group do not keep step"
