"""The log of dead letters gets a line of each at least once, after its row."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from oncecast.core.errors import Reject, Unavailable
from oncecast.core.telemetry import DeadLetterLogFailed, DeadLettersLogged, TelemetryEvent
from oncecast.listener.dead_letters.logging import CHUNK_SIZE, RETRY_INTERVAL_S, DeadLetterLogger
from oncecast.testing.memory import MemoryEvents
from tests.simulation.clock import VirtualClock
from tests.support.memory_servers import PROBE_INTERVAL_S, REFUSED, MemoryServers
from tests.support.places import arrival
from tests.support.virtual_time import in_virtual_time, running

FULL = Unavailable("the log: No space left on device")


class Log:
    """A DeadLetterLog in memory."""

    def __init__(self) -> None:
        self.ids: list[str] | None = None
        """Of the lines in it; None before it is created."""
        self.error: Unavailable | None = None

    def __str__(self) -> str:
        return "the log"

    async def append(self, lines: Sequence[bytes]) -> None:
        if self.error is not None:
            raise self.error
        self.ids = [*(self.ids or []), *(msgspec.json.decode(line)["event"]["id"] for line in lines)]


class Filing:
    """The dead letters of two listeners, and the log of one, `a`."""

    def __init__(self, clock: VirtualClock) -> None:
        self.servers = MemoryServers(clock)
        self.link = self.servers.to_postgres
        self.other = MemoryEvents(self.servers.postgres, instance="b", token="b")
        self.log = Log()
        events, gate, record = self.servers.events, self.servers.database, self.servers.telemetry_events.append
        self.logger = DeadLetterLogger(events, self.log, gate, clock, record=record)

    @property
    def telemetry_events(self) -> list[TelemetryEvent]:
        return self.servers.telemetry_events

    async def die(self, *ids: str) -> None:
        """These become dead letters of `a`."""
        for id_ in ids:
            offset = len(self.servers.postgres.tables.rows) + 1
            await self.servers.events.dead_letter(arrival(offset, id_), Reject("no"))


@in_virtual_time
async def test_each_dead_letter_gets_one_line_in_order(clock: VirtualClock) -> None:
    at = Filing(clock)
    await at.die("x", "y")
    assert await at.logger.log()
    assert await at.logger.log()
    assert at.log.ids == ["x", "y"]
    assert at.telemetry_events == [DeadLettersLogged("x", "the log"), DeadLettersLogged("y", "the log")]


@in_virtual_time
async def test_the_dead_letters_of_another_listener_are_left_to_its_own_log(clock: VirtualClock) -> None:
    at = Filing(clock)
    await at.other.dead_letter(arrival(1, "x"), Reject("no"))
    assert await at.logger.log()
    assert at.log.ids is None


@in_virtual_time
async def test_any_number_of_dead_letters_is_logged_in_portions(clock: VirtualClock) -> None:
    at = Filing(clock)
    ids = [f"e{n}" for n in range(2 * CHUNK_SIZE + 1)]
    await at.die(*ids)
    assert await at.logger.log()
    assert at.log.ids == ids


@in_virtual_time
async def test_a_log_that_cannot_be_written_is_reported_and_its_lines_are_written_later(clock: VirtualClock) -> None:
    at = Filing(clock)
    await at.die("x")
    at.log.error = FULL
    assert not await at.logger.log()
    assert at.telemetry_events == [DeadLetterLogFailed(str(FULL))]
    at.log.error = None
    assert await at.logger.log()
    assert at.log.ids == ["x"]


@in_virtual_time
async def test_a_line_whose_row_could_not_be_noted_as_logged_is_written_again(clock: VirtualClock) -> None:
    at = Filing(clock)
    await at.die("x")
    at.link.next_errors = [None, ConnectionResetError("gone")]  # read, but not marked
    assert not await at.logger.log()
    assert await at.logger.log()
    assert at.log.ids == ["x", "x"]


@in_virtual_time
async def test_nothing_is_asked_of_a_postgresql_that_is_down(clock: VirtualClock) -> None:
    at = Filing(clock)
    at.servers.database.lost(REFUSED)
    assert not await at.logger.log()
    assert at.link.calls == 0


@in_virtual_time
async def test_the_log_is_created_empty_before_the_first_dead_letter(clock: VirtualClock) -> None:
    at = Filing(clock)
    async with running(at.logger.log_loop()):
        await clock.sleep(1.0)
    assert at.log.ids == []


@in_virtual_time
async def test_a_log_that_cannot_be_created_is_reported_at_the_start(clock: VirtualClock) -> None:
    at = Filing(clock)
    at.log.error = FULL
    async with running(at.logger.log_loop()):
        await clock.sleep(1.0)
    assert at.telemetry_events == [DeadLetterLogFailed(str(FULL))]


@in_virtual_time
async def test_dead_letters_that_the_process_before_left_are_logged_at_the_start(clock: VirtualClock) -> None:
    at = Filing(clock)
    await at.die("x")
    async with running(at.logger.log_loop()):
        await clock.sleep(1.0)
    assert at.log.ids == ["x"]


@in_virtual_time
async def test_a_new_dead_letter_is_logged_at_once(clock: VirtualClock) -> None:
    at = Filing(clock)
    async with running(at.logger.log_loop()):
        await clock.sleep(1.0)
        await at.die("x")
        at.logger.wake()
        await clock.sleep(0.001)
    assert at.log.ids == ["x"]


@in_virtual_time
async def test_a_log_that_failed_is_tried_again_every_five_seconds(clock: VirtualClock) -> None:
    at = Filing(clock)
    await at.die("x")
    at.log.error = FULL
    async with running(at.logger.log_loop()):
        await clock.sleep(2 * RETRY_INTERVAL_S + 0.1)
        assert at.telemetry_events == [DeadLetterLogFailed(str(FULL))] * 4  # at the start, and three times
        at.log.error = None
        await clock.sleep(RETRY_INTERVAL_S)
    assert at.log.ids == ["x"]


@in_virtual_time
async def test_dead_letters_wait_for_the_end_of_an_outage_of_postgresql(clock: VirtualClock) -> None:
    at = Filing(clock)
    await at.die("x")
    at.servers.database.lost(REFUSED)
    async with running(at.logger.log_loop()):
        await clock.sleep(10.0)
        assert at.log.ids == []
        async with running(at.servers.database.probe_loop()):
            await clock.sleep(PROBE_INTERVAL_S + 0.1)
    assert at.log.ids == ["x"]
