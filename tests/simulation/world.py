"""A run: the real producers and listeners on memory stores, in virtual time, with scheduled faults and checks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from oncecast.app.application import App
from oncecast.chaos.judge import Evidence, Verdict, judge
from oncecast.core.ranges import RangeRules
from oncecast.core.telemetry import TelemetryEvent
from oncecast.core.wire import Answer, Ask
from oncecast.listener.pipeline.attempt import AttemptLimits
from oncecast.listener.service import ListenerService, ListenerSettings
from oncecast.producer.app import Producer, ProducerSettings
from oncecast.producer.retention import RetentionLimits
from oncecast.testing.memory import (
    MemoryCrashLog,
    MemoryDeadLetters,
    MemoryLeases,
    MemoryOutbox,
    MemoryRedis,
)
from oncecast.testing.memory.journal import Kept
from oncecast.testing.memory.postgres import Tables
from tests.simulation.application import GROUP, RULES, Surroundings, application
from tests.simulation.clock import VirtualClock
from tests.simulation.faults import FAULTS, POSTGRES_FAILS_OVER, REDIS_FAILS_OVER, Action
from tests.simulation.handled import Handled
from tests.simulation.loop import NothingLeft, Spinning, VirtualLoop, begin, owned_by, owner_name, sleep
from tests.simulation.network import Wire
from tests.simulation.publishers import Publishers, event_of
from tests.simulation.schedule import Schedule
from tests.simulation.servers import Servers
from tests.simulation.watch import Watch, WatchedEvents, WatchedJournal, WatchedPostgres

REDIS_DEADLINE_S = 2.0
DIAL_DEADLINE_S = 10.0
REST_DEADLINE_S = 300.0
"""Within this virtual time after the last fault, everything must have come to rest."""
CHECK_INTERVAL_S = 1.0


class Stalled(Exception):
    """The run did not come to rest."""


@dataclass(slots=True)
class Result:
    """The result of a run; `violations` is empty if all invariants hold."""

    verdict: Verdict
    violations: list[str]
    history: list[str]
    injected: Counter[str]
    """Faults with an effect, by kind."""
    steps: int


@dataclass(slots=True)
class Process:
    """A listener or a producer; `owner` names its current life."""

    name: str
    lives: int = 0
    owner: str = ""
    running: bool = False
    service: Any = None
    stop: asyncio.Event | None = None
    """Stops a listener when set."""
    journal: Any = None
    """The journal of a producer."""


class World:
    """All processes, servers and links of a run."""

    def __init__(self, schedule: Schedule, loop: VirtualLoop, clock: VirtualClock, *, history: bool) -> None:
        self.schedule = schedule
        self.loop = loop
        self.clock = clock
        self.draw = random.Random(schedule.seed)
        self.history: list[str] = []
        self.violations: list[str] = []
        self.injected: Counter[str] = Counter()
        self.watch = Watch(self)
        self.handled = Handled(self)
        self.servers = Servers(self.draw, self.watch.check)
        self.publishers = Publishers(self)
        self.postgres = WatchedPostgres(self)
        self.redis = MemoryRedis(loop.time)
        self.producers = [Process(f"producer-{n}") for n in range(schedule.producers)]
        self.listeners = [Process(f"listener-{n}") for n in range(schedule.listeners)]
        self.kept = {producer.name: Kept.new(clock) for producer in self.producers}
        self.snapshots: list[tuple[Tables, MemoryRedis]] = []
        self._history_wanted = history
        self._wires: list[Wire] = []
        self._window_bytes = self.draw.choice((32_000, 512 * 1024))
        self._ring_bytes = self.draw.choice((1_000, 64 * 1024))
        self._call_deadline_s = self.draw.choice((5.0, 32.0))
        self._mark_ttl_s = self.draw.choice((15.0, 600.0))
        handled = application(
            Surroundings(
                self.draw,
                is_edited=lambda: self._is_edited,
                vanish=lambda: self.vanish(self.process(owner_name())),
                entered=self.handled.entered,
                retried=set(),
                batch_max=self.draw.choice((3, 500)),
            )
        )
        self._application = handled if schedule.has_handlers else App(GROUP)
        self._is_edited = all(action.kind != "replay" for action in schedule.actions)
        fails_over = any(action.kind == POSTGRES_FAILS_OVER for action in schedule.actions)
        self._max_age_s = 1e6 if fails_over else self.draw.choice((0.5, 10.0))

    def tell(self, text: str) -> None:
        """Add a line to the history, which is printed for a failed run."""
        if self._history_wanted:
            self.history.append(f"{self.loop.now_s - 1_000:8.3f}  {text}")

    def listener(self, which: int) -> Process:
        """The `which`-th, counted round and round."""
        return self.listeners[which % len(self.listeners)]

    def producer(self, which: int) -> Process:
        """The `which`-th, counted round and round."""
        return self.producers[which % len(self.producers)]

    def process(self, name: str) -> Process:
        """Return the process with this name."""
        return next(process for process in (*self.producers, *self.listeners) if process.name == name)

    # --- connections between listeners and producers ---------------------------------------------------------

    @asynccontextmanager
    async def dial(self, url: str) -> AsyncIterator[Wire]:
        """Connect to a producer; the URL is its name."""
        name, producer = owner_name(), self.process(url)
        await sleep(self.servers.latency_s())
        if not producer.running or self.servers.is_cut(name, url) or self.servers.is_cut("listeners", url):
            await sleep(self.draw.choice((0.0, DIAL_DEADLINE_S)))
            raise ConnectionRefusedError(f"{url} cannot be reached")
        wire = Wire(name, url, self.servers.latency_s)
        self._wires.append(wire)
        with owned_by(producer.owner):
            begin(producer.service.app(wire.scope, wire.asgi_receive, wire.asgi_send))
        try:
            yield wire
        finally:
            self.break_wires(lambda other: other is wire)

    def break_wires(self, concerned: Callable[[Wire], bool]) -> int:
        """Break connections; each side notices in its own time. Return their number."""
        broken = [wire for wire in self._wires if concerned(wire)]
        for wire in broken:
            self._wires.remove(wire)
            with owned_by("world"):
                self.loop.call_later(self.draw.choice((0.0, self.draw.uniform(0, 15))), wire.end_down)
                self.loop.call_later(self.draw.choice((0.0, self.draw.uniform(0, 15))), wire.end_up)
        return len(broken)

    def edit(self) -> None:
        """Let flaky events succeed more often than not; before, they never do."""
        self._is_edited = True

    def received_of(self, producer: str) -> int:
        """Return the newest offset of a producer that any listener has received."""
        services = [process.service for process in self.listeners if process.service is not None]
        feeds = [feed for service in services for feed in service.feeds if feed.url == producer]
        return max((feed.track.watermark.received for feed in feeds if feed.track is not None), default=0)

    # --- processes -------------------------------------------------------------------------------------------

    def start_producer(self, process: Process) -> None:
        """Start a producer, which reopens its journal."""
        self._begin(process)
        with owned_by(process.owner):
            journal = process.journal = WatchedJournal(self.clock, self.kept[process.name], self.watch)
            settings = ProducerSettings(
                instance=process.name,
                ring_max_bytes=self._ring_bytes,
                retention=RetentionLimits(max_age_s=self._max_age_s, initial_groups=(GROUP,)),
            )
            process.service = Producer(
                journal, settings, self.clock, metrics=lambda: b"", record=lambda _telemetry: None
            )
            begin(process.service.retention.run())
        self.tell(f"{process.name} begins, epoch {journal.epochs[-1]}")

    def start_listener(self, process: Process) -> None:
        """Start a listener with a new token."""
        self._begin(process)
        with owned_by(process.owner):
            begin(self._listen(process))
        self.tell(f"{process.name} begins")

    def _begin(self, process: Process) -> None:
        process.lives += 1
        process.owner = f"{process.name}#{process.lives}"
        process.running = True

    async def _listen(self, process: Process) -> None:
        process.stop = asyncio.Event()
        service = process.service = self._listener_service(process)
        try:
            await service.run(process.stop)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self.violations.append(f"{process.name} ended with {error!r}")
            raise
        process.running = False
        self.tell(f"{process.name} has ended in order")

    def _listener_service(self, process: Process) -> ListenerService:
        token = _token(process)
        call = self.servers.call_to("postgres", process.name, self._call_deadline_s)
        client: dict[str, Any] = {"instance": process.name, "token": token, "call": call}
        redis_call = self.watch.over_leases(token, self.servers.redis_call(process.name, REDIS_DEADLINE_S))
        ttls: dict[str, Any] = {"lease_ttl_s": 30.0, "mark_ttl_s": self._mark_ttl_s}

        async def answer(ask: Ask) -> Answer:
            return Answer(id=ask.id, status=404, body="{}")

        def record(telemetry: TelemetryEvent) -> None:
            if self._history_wanted:
                self.tell(f"{process.name}: {telemetry}")

        return ListenerService(
            self._application,
            MemoryLeases(self.redis, token=token, call=redis_call, **ttls),
            WatchedEvents(self, **client),
            MemoryCrashLog(self.postgres, **client),
            MemoryDeadLetters(self.postgres, **client),
            _Log(),
            MemoryOutbox(self.postgres, **client),
            ListenerSettings(
                instance=process.name,
                group=GROUP,
                producer_urls=[producer.name for producer in self.producers],
                window_bytes=self._window_bytes,
                attempts=AttemptLimits(db_errors_per_event_max=5, retry_after_max_s=3.0),
                force_handlers=True,
            ),
            answer,
            self.publishers.relay,
            record,
            self.clock,
            dial=self.dial,
            # Listeners of different releases may cut differently.
            rules=RangeRules(self.draw.choice((1, 8, 1_000)), decoded=self.schedule.has_handlers),
        )

    def vanish(self, process: Process) -> bool:
        """Kill a process; return False if it was dead already."""
        if not process.running:
            return False
        self.tell(f"{process.name} vanishes")
        process.running = False
        self.loop.vanish(process.owner)
        self.break_wires(lambda wire: process.name in (wire.listener, wire.producer))
        with owned_by("postgres"):
            delay_s = self.draw.choice((0.0, self.draw.uniform(0, 20)))
            self.loop.call_later(delay_s, self.postgres.terminate, _token(process))
        return True

    # --- the run ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run from the first start until all is at rest."""
        for producer in self.producers:
            self.start_producer(producer)
        for listener in self.listeners:
            self.start_listener(listener)
        upkeep = [begin(self._restart_loop())]
        if any(action.kind in (POSTGRES_FAILS_OVER, REDIS_FAILS_OVER) for action in self.schedule.actions):
            upkeep.append(begin(self._copy_loop()))
        try:
            async with asyncio.TaskGroup() as group:
                for at_s, number, ids in self.schedule.publications:
                    events = [event_of(id_) for id_ in ids]
                    group.create_task(_at(at_s, self.publishers.publish(self.producer(number).name, events)))
                for action in self.schedule.actions:
                    group.create_task(_at(action.at_s, self._inflict(action)))
            self.tell("all faults are cleared")
            await self._rest()
        finally:
            for task in upkeep:
                task.cancel()

    async def _inflict(self, action: Action) -> None:
        self.tell(f"{action.kind} ({action.which}) for {action.length_s} s")
        self.injected[action.kind] += await FAULTS[action.kind](self, action)

    async def _restart_loop(self) -> None:
        while True:
            await sleep(self.draw.uniform(0.2, 2.0))
            for listener in self.listeners:
                if not listener.running:
                    self.start_listener(listener)
            for producer in self.producers:
                if not producer.running:
                    self.start_producer(producer)

    async def _copy_loop(self) -> None:
        while True:
            await sleep(self.draw.uniform(0, 10))
            self.snapshots.append((self.postgres.snapshot(), self.redis.snapshot()))

    async def _rest(self) -> None:
        deadline_s = self.loop.time() + REST_DEADLINE_S
        while not self._is_at_rest():
            if self.loop.time() > deadline_s:
                raise Stalled("not everything has ended")
            await sleep(CHECK_INTERVAL_S)

    def _is_at_rest(self) -> bool:
        """Whether every listener has seen every event end, and knows that the cursor has passed it."""
        rows = {row.id for row in self.postgres.tables.rows.values()}
        everybody = (*self.listeners, *self.producers)
        if self.postgres.tables.outbox or not self.publishers.acknowledged | self.handled.due() <= rows:
            return False
        if not all(process.running for process in everybody):
            return False
        lasts = {(kept.name, last, last) for kept in self.kept.values() for last in [_last(kept)]}
        for process in self.listeners:
            if process.service is None or process.service.pipeline.in_flight:
                return False
            tracks = [feed.track for feed in process.service.feeds if feed.track is not None]
            if {(track.journal, track.watermark.value, track.saved.offset) for track in tracks} != lasts:
                return False
        return True

    def result(self) -> Result:
        """Return the judge's result."""
        self.watch.check_all()
        tables = self.postgres.tables
        verdict = judge(
            Evidence(
                tried=self.publishers.tried,
                acknowledged=self.publishers.acknowledged,
                rows={row.id: row.status for row in tables.rows.values()},
                types={row.id: row.type for row in tables.rows.values()},
                effects=tables.effects,
                left_in_outbox=len(tables.outbox),
                ahead=self.watch.ahead,
            ),
            RULES,
        )
        wrong = [f"{name}: {count}" for name, count in list(verdict.as_dict().items())[5:] if count]
        watched = (*self.watch.violations, *self.watch.wrong_gaps(), *self.watch.lost_conflicts())
        handled = (*self.handled.violations, *self.handled.wrong_follow_ups())
        violations = [*self.violations, *watched, *handled, *wrong]
        return Result(verdict, violations, self.history, self.injected, self.loop.steps)


class _Log:
    async def append(self, lines: Sequence[bytes]) -> None:
        """Do nothing."""


def _token(process: Process) -> str:
    return process.owner.ljust(16, ".")


def _last(kept: Kept) -> int:
    return kept.batches[-1].last_offset if kept.batches else 0


async def _at(at_s: float, act: Awaitable[None]) -> None:
    await sleep(at_s)
    await act


def simulate(schedule: Schedule, *, history: bool = False) -> Result:
    """Run a schedule; the same schedule gives the same result."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, schedule.seed)
    world = World(schedule, loop, clock, history=history)
    try:
        loop.run_until_complete(world.run())
    except (Stalled, NothingLeft, Spinning) as error:
        world.violations.append(f"stalled: {error or type(error).__name__}")
    finally:
        loop.abandon()
    return world.result()
