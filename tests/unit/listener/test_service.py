"""How a listener stops: it drains, so that another one goes on without a pause and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from oncecast import App, Event, Reject, Transaction
from oncecast.core.event import Cursor
from oncecast.core.telemetry import DeadLettersLogged, Stopped, Stopping, TelemetryEvent
from oncecast.core.wire import Answer, Ask
from oncecast.listener.pipeline.attempt import AttemptLimits
from oncecast.listener.service import ListenerService, ListenerSettings
from oncecast.producer.app import Producer, ProducerSettings
from oncecast.testing.memory import MemoryCrashLog, MemoryDeadLetters, MemoryEvents, MemoryLeases, MemoryOutbox
from oncecast.testing.memory.journal import MemoryJournal
from oncecast.testing.memory.postgres import EFFECT
from tests.simulation.clock import VirtualClock
from tests.simulation.loop import begin
from tests.simulation.network import Wire
from tests.support.memory_servers import LEASE_TTL_S, MARK_TTL_S, REFUSED, MemoryServers
from tests.support.virtual_time import in_virtual_time

DRAIN_TIMEOUT_S = 10.0
RECHECK_S = 2.0
"""In this time a listener that has nothing to wait for has done everything."""


class Log:
    """A log of dead letters that keeps nothing."""

    async def append(self, lines: Sequence[bytes]) -> None: ...


class Orders:
    """An application whose handler waits for `may_end`, and then has an effect, or rejects the event."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.app = App("shop", lifespan=self._lifespan)
        self.app.on("order")(self._handle)
        self.has_ended = False

    async def _lifespan(self) -> AsyncIterator[None]:
        yield
        self.has_ended = True

    async def _handle(self, event: Event, tx: Transaction) -> None:
        assert not self.has_ended
        self.begun.append(event.id)
        await self.may_end.wait()
        if event.data == "bad":
            raise Reject("a bad order")
        await tx.execute(EFFECT, (event.id,))
        self.ended.append(event.id)


class Running:
    """A listener that consumes the journal of a producer in this process; `alongside` is another one of its group."""

    def __init__(
        self, clock: VirtualClock, name: str = "a", *, handler_concurrency: int = 8, alongside: Running | None = None
    ) -> None:
        self.clock = clock
        self.name = name
        self.orders = Orders()
        self.servers: MemoryServers = alongside.servers if alongside else MemoryServers(clock)
        self.journal: MemoryJournal = alongside.journal if alongside else MemoryJournal(clock)
        self.producer = Producer(
            self.journal, ProducerSettings(instance="producer"), clock, metrics=bytes, record=lambda _telemetry: None
        )
        self.stop = asyncio.Event()
        settings = ListenerSettings(
            instance=name,
            group="shop",
            producer_urls=["producer"],
            drain_timeout_s=DRAIN_TIMEOUT_S,
            attempts=AttemptLimits(handler_concurrency=handler_concurrency),
        )
        postgres, redis, telemetry_events = self.servers.postgres, self.servers.redis, self.servers.telemetry_events
        to_postgres, to_redis = self.servers.to_postgres.call, self.servers.to_redis.call
        self.service = ListenerService(
            self.orders.app,
            MemoryLeases(redis, token=name, lease_ttl_s=LEASE_TTL_S, mark_ttl_s=MARK_TTL_S, call=to_redis),
            MemoryEvents(postgres, instance=name, token=name, call=to_postgres),
            MemoryCrashLog(postgres, instance=name, token=name, call=to_postgres),
            MemoryDeadLetters(postgres, instance=name, token=name, call=to_postgres),
            Log(),
            MemoryOutbox(postgres, instance=name, token=name, call=to_postgres),
            settings,
            self._answer,
            self._publish,
            telemetry_events.append,
            clock,
            dial=self._dial,
        )
        self.run = begin(self.service.run(self.stop))

    @asynccontextmanager
    async def _dial(self, url: str) -> AsyncIterator[Wire]:
        wire = Wire(self.name, url, lambda: 0.001)
        begin(self.producer.app(wire.scope, wire.asgi_receive, wire.asgi_send))
        try:
            yield wire
        finally:
            wire.end_down()
            wire.end_up()

    async def _answer(self, ask: Ask) -> Answer:
        return Answer(id=ask.id, status=404, body="{}")

    async def _publish(self, events: Sequence[bytes]) -> None:
        raise AssertionError(events)

    async def accept(self, *ids: str, data: str = "good") -> None:
        """Have the producer accept these orders, and wait until the listener has begun what it can."""
        await self.journal.append([Event.new("order", data, id=id_).to_json() for id_ in ids])
        await self.clock.sleep(RECHECK_S)

    async def need_more_handlers(self) -> None:
        """Have a newer application of the group recorded, with a handler that this one lacks."""
        await self.servers.events.register_handlers(self.orders.app.selectors | {"mail on order"}, force=False)

    async def drained(self) -> float:
        """Wait until the listener has stopped; return how long that took from now."""
        began_s = self.clock.monotonic_s()
        await self.run
        return self.clock.monotonic_s() - began_s

    def reported(self, kind: type[TelemetryEvent]) -> list[TelemetryEvent]:
        return [telemetry for telemetry in self.servers.telemetry_events if isinstance(telemetry, kind)]

    @property
    def statuses(self) -> dict[str, str]:
        """Of the events that have ended."""
        return {row.id: row.status for row in self.servers.postgres.tables.rows.values()}

    async def cursor(self) -> Cursor | None:
        """Where the next listener of the group begins."""
        saved = await self.servers.events.load_cursor(self.journal.name)
        return saved.cursor if saved is not None else None


async def started(clock: VirtualClock, *, handler_concurrency: int = 8) -> Running:
    """A listener at work."""
    running = Running(clock, handler_concurrency=handler_concurrency)
    await clock.sleep(RECHECK_S)
    assert running.service.health().status == "ok"
    return running


@in_virtual_time
async def test_a_handler_that_is_running_finishes_before_the_listener_stops(clock: VirtualClock) -> None:
    at = await started(clock)
    await at.accept("x")
    at.stop.set()
    await clock.sleep(1.0)
    at.orders.may_end.set()
    assert await at.drained() < 0.5
    assert (at.orders.ended, at.statuses) == (["x"], {"x": "stored"})
    assert (at.reported(Stopping), at.reported(Stopped)) == ([Stopping(1)], [Stopped(0)])


@in_virtual_time
async def test_the_lifespan_of_the_application_ends_after_its_last_handler(clock: VirtualClock) -> None:
    at = await started(clock)
    await at.accept("x")
    at.stop.set()
    await clock.sleep(1.0)
    assert not at.orders.has_ended
    at.orders.may_end.set()
    await at.drained()
    assert (at.orders.ended, at.orders.has_ended) == (["x"], True)


@in_virtual_time
async def test_a_handler_that_does_not_finish_in_time_is_rolled_back_and_its_lease_released(
    clock: VirtualClock,
) -> None:
    at = await started(clock)
    await at.accept("x")
    at.stop.set()
    assert DRAIN_TIMEOUT_S <= await at.drained() < DRAIN_TIMEOUT_S + 1.0
    assert (at.orders.ended, at.statuses, at.servers.postgres.tables.effects) == ([], {}, {})
    assert at.reported(Stopped) == [Stopped(1)]
    assert at.servers.redis.leases == {}


@in_virtual_time
async def test_a_listener_that_stops_finishes_what_it_has_claimed_and_claims_nothing_more(
    clock: VirtualClock,
) -> None:
    at = await started(clock, handler_concurrency=1)
    await at.accept("x", "y")
    assert at.orders.begun == ["x"]
    at.stop.set()
    await at.accept("z")
    at.orders.may_end.set()
    await at.drained()
    assert (at.orders.begun, at.statuses) == (["x", "y"], {"x": "stored", "y": "stored"})


@in_virtual_time
async def test_the_cursor_is_saved_over_what_a_drain_has_finished(clock: VirtualClock) -> None:
    at = await started(clock)
    await at.accept("x", "y")
    assert await at.cursor() in (None, Cursor(at.journal.epochs[0].epoch, 0))
    at.stop.set()
    at.orders.may_end.set()
    await at.drained()
    assert await at.cursor() == Cursor(at.journal.epochs[0].epoch, 2)


@in_virtual_time
async def test_a_dead_letter_of_the_last_moment_is_logged_before_the_listener_stops(clock: VirtualClock) -> None:
    at = await started(clock)
    await at.accept("x", data="bad")
    at.stop.set()
    at.orders.may_end.set()
    await at.drained()
    assert at.statuses == {"x": "dead"}
    assert [
        type(telemetry)
        for telemetry in at.servers.telemetry_events
        if isinstance(telemetry, DeadLettersLogged | Stopped)
    ] == [DeadLettersLogged, Stopped]


@in_virtual_time
async def test_an_orderly_stop_is_not_recorded_as_a_crash(clock: VirtualClock) -> None:
    at = await started(clock)
    assert at.servers.postgres.tables.running == {"a"}
    at.stop.set()
    await at.drained()
    assert at.servers.postgres.tables.running == set()


@in_virtual_time
async def test_a_listener_that_stops_replays_no_dead_letter(clock: VirtualClock) -> None:
    at = await started(clock)
    await at.accept("x")
    at.stop.set()
    await clock.sleep(1.0)
    assert at.service.standby_reason == "it is stopping"
    assert at.service.health().status == "draining"


@in_virtual_time
async def test_a_listener_stops_in_time_though_postgresql_and_redis_are_down(clock: VirtualClock) -> None:
    at = await started(clock)
    await at.accept("x")
    at.servers.to_postgres.error = at.servers.to_redis.error = REFUSED
    at.stop.set()
    at.orders.may_end.set()
    assert await at.drained() < DRAIN_TIMEOUT_S + 1.0
    assert at.statuses == {}


@in_virtual_time
async def test_what_a_listener_could_not_finish_another_one_takes_over_at_once(clock: VirtualClock) -> None:
    at = await started(clock, handler_concurrency=1)
    await at.accept("x", "y", "z")
    at.stop.set()
    await at.drained()
    successor = Running(clock, "b", alongside=at)
    successor.orders.may_end.set()
    await clock.sleep(RECHECK_S)
    assert successor.orders.ended == ["x", "y", "z"]
    assert at.servers.postgres.tables.effects == {"x": 1, "y": 1, "z": 1}


@in_virtual_time
async def test_a_listener_on_standby_stops_at_once(clock: VirtualClock) -> None:
    at = await started(clock)
    await at.need_more_handlers()
    on_standby = Running(clock, "b", alongside=at)
    await clock.sleep(RECHECK_S)
    assert on_standby.service.health().on_standby
    on_standby.stop.set()
    assert await on_standby.drained() < 0.5
    assert on_standby.orders.has_ended


@in_virtual_time
async def test_a_listener_at_work_drains_when_the_group_needs_a_handler_that_it_lacks(clock: VirtualClock) -> None:
    at = await started(clock)
    await at.accept("x")
    await at.need_more_handlers()
    await clock.sleep(RECHECK_S)
    assert at.reported(Stopping) == [Stopping(1)]
    at.orders.may_end.set()
    await at.drained()
    assert at.statuses == {"x": "stored"}, "its transaction began when the listener had all handlers"
