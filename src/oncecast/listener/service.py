"""The listener as a whole: its stages, how they are connected, run and drained.

feed ─▶ enter ─▶ claim ─▶ attempt ─▶ settle ─▶ journal position ─▶ cursor
                 ▲  └ leased elsewhere ─▶ watch ┐
                 └────────── requeue ◀──────────┴── failed attempt
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from oncecast.app.application import App
from oncecast.app.demo import FAILING
from oncecast.app.isolation import RunOptions
from oncecast.app.lifespan import Bounds
from oncecast.core.clock import Clock
from oncecast.core.dead_letter_ports import DeadLetterBroker, DeadLetterLog, DeadLetters, UnforwardedDeadLetters
from oncecast.core.errors import Unavailable
from oncecast.core.event import Arrival
from oncecast.core.health import Health
from oncecast.core.leases import Claims
from oncecast.core.ports import CrashLog, EventStore, Leases, Outbox, Publish
from oncecast.core.retry import Backoff
from oncecast.core.telemetry import Emit, Stopped, Stopping, TelemetryEvent
from oncecast.core.wire import Answer, Ask, ListenerReport
from oncecast.listener.background.health_checks import Troubles, board_of, shown_feed
from oncecast.listener.background.outbox_relay import Emissions
from oncecast.listener.background.pruning import Pruner
from oncecast.listener.background.standby import Standby
from oncecast.listener.dead_letters.forwarding import DeadLetterForwarder
from oncecast.listener.dead_letters.logging import DeadLetterLogger
from oncecast.listener.dead_letters.replay import Replays
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.listener.dependencies.postgres_watch import DatabaseWatch
from oncecast.listener.dependencies.quarantine import Quarantine
from oncecast.listener.dependencies.takeover import Takeovers
from oncecast.listener.feed.dial import Dial, websocket_dial
from oncecast.listener.feed.feed import Feed
from oncecast.listener.feed.journals import Journals
from oncecast.listener.feed.track import Track
from oncecast.listener.pipeline.attempt import AttemptLimits, Attempts
from oncecast.listener.pipeline.cursor import CursorSaver
from oncecast.listener.pipeline.lines import Lines
from oncecast.listener.pipeline.order import Order
from oncecast.listener.pipeline.repeats import Repeats
from oncecast.listener.pipeline.settle import Settlement
from oncecast.listener.pipeline.thread_gate import ThreadGate
from oncecast.listener.recent import Recent
from oncecast.listener.stats import Stats
from oncecast.tasks import STALL_S, Essentials, LastResort, idle, wait_any, working

LAST_SENDING_MIN_S = 1.0
"""The minimum time that a drain leaves for forwarding dead letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """The settings of a listener, described in the reference of settings; durations are in seconds."""

    instance: str
    group: str
    producer_urls: Sequence[str]
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The token for each producer, by its URL."""
    window_bytes: int = 32 * 1024 * 1024
    attempts: AttemptLimits = field(default_factory=AttemptLimits)
    lease_ttl_s: float = 30.0
    probe_interval_s: float = 1.0
    reconnect: Backoff = Backoff(base_s=1.0, max_s=30.0)
    drain_timeout_s: float = 10.0
    from_latest: bool = False
    """Whether a group that has never read a journal starts at its end."""
    events_retention_s: float | None = None
    force_handlers: bool = False


class ListenerService:
    """Consumes the broadcast of its producers and ends every event once, together with its group."""

    def __init__(
        self,
        app: App,
        leases: Leases,
        store: EventStore,
        crash_log: CrashLog,
        dead_letters: DeadLetters,
        dead_letter_log: DeadLetterLog,
        outbox: Outbox,
        settings: ListenerSettings,
        answer: Callable[[Ask], Awaitable[Answer]],
        publish: Publish,
        emit: Emit,
        clock: Clock,
        *,
        dial: Dial | None = None,
        check_emitted: Callable[[bytes], None] | None = None,
        sending: tuple[UnforwardedDeadLetters, DeadLetterBroker] | None = None,
        last_resort: LastResort | None = None,
    ) -> None:
        self._clock = clock
        self.essentials = Essentials(clock, end_within_s=settings.drain_timeout_s, last_resort=last_resort)
        self._dial = dial or websocket_dial(settings.tokens)
        self.stats = Stats(clock, emit)
        self.standby = Standby(store, app.selectors, clock, force=settings.force_handlers, emit=emit)
        self.settings = settings
        self._app = app
        self._leases = leases
        self._answer = answer
        self._store = store
        self._crash_log = crash_log
        self._draining = asyncio.Event()
        self._previous_crashed: bool | None = None
        self._paused = asyncio.Event()
        self.redis = LeaseGate(leases, clock, lease_ttl_s=settings.lease_ttl_s, emit=self._emit)
        self.database = DatabaseGate(
            store,
            clock,
            probe_interval_s=settings.probe_interval_s,
            paused=self._paused.set,
            emit=self._emit,
        )
        self.recent = Recent(settings.instance, clock)
        self._order = Order(app, release=self._come_back_one, let_go=lambda arrival: self.settlement.let_go(arrival))
        self.settlement = Settlement(
            self.redis,
            self.recent,
            clock,
            release=self._order.let_second_through,
            ended=self._order.ended,
            was_let_go=self._order.was_let_go,
            emit=self._emit,
        )
        self._repeats = Repeats(store, self.database, self.settlement)
        self._emissions = Emissions(outbox, publish, self.database, clock, emit=self._emit)
        self._watch = Takeovers(
            self.redis,
            store,
            clock,
            ended=self.settlement.ended_elsewhere,
            come_back=self._come_back,
            emit=self._emit,
        )
        exclusive_run = ExclusiveRun()
        options = RunOptions(clock=clock, timeout_s=settings.attempts.handler_timeout_s, check_emitted=check_emitted)
        self._attempts = Attempts(
            app,
            store,
            self.database,
            options,
            limits=settings.attempts,
            settle=self.settlement.settle,
            come_back=self._come_back,
            let_go=self.settlement.let_go,
            paused=self._paused.set,
            quarantine=Quarantine(self.redis, crash_log),
            exclusive_run=exclusive_run,
            emit=self._emit,
            emitted=self._emissions.wake,
            dead_lettered=self._wake_dead_letter_tasks,
        )
        threads = ThreadGate(
            app,
            self.redis,
            options,
            attempt=self._attempts.attempt,
            come_back=self._come_back,
            emit=self._emit,
        )
        self._lines = Lines(
            app,
            handler_concurrency=settings.attempts.handler_concurrency,
            leases=self.redis,
            database=self.database,
            clock=clock,
            attempt=threads.attempt,
            sort_out=self._sort_out,
        )
        self._journals = Journals(store, settings.group)
        self.feeds = [self._feed(url) for url in settings.producer_urls]
        self._dead_letter_logger = DeadLetterLogger(store, dead_letter_log, self.database, clock, emit=self._emit)
        self.forwarder = DeadLetterForwarder(*sending, self.database, clock, emit=self._emit) if sending else None
        self._pruner = Pruner(store, self.database, clock, keep_s=settings.events_retention_s, emit=self._emit)
        self.replays = Replays(app, dead_letters, exclusive_run, options, emit=self._emit)
        self._cursors = CursorSaver(
            store, self.database, clock, tracks=self._tracks, reread=self._reread, emit=self._emit
        )

        self.troubles = Troubles()
        self._database_watch = DatabaseWatch(store, self.database, clock)
        self._board = board_of(
            clock,
            standby=self.standby,
            draining=self._draining,
            database=self.database,
            redis=self.redis,
            feeds=self.feeds,
            emissions=self._emissions,
            forwarder=self.forwarder,
            troubles=self.troubles,
        )

    def _feed(self, url: str) -> Feed:
        settings = self.settings
        return Feed(
            url,
            instance=settings.instance,
            group=settings.group,
            dial=self._dial,
            window_bytes=max(1, settings.window_bytes // len(settings.producer_urls)),
            reconnect=settings.reconnect,
            from_latest=settings.from_latest,
            clock=self._clock,
            store=self._store,
            journals=self._journals,
            ready=self._ready,
            receive=self._receive,
            report=self.report,
            answer=self._answer,
            emit=self._emit,
        )

    async def _ready(self) -> bool:
        """Wait for PostgreSQL; return whether the previous process of this name crashed."""
        await self.database.wait()
        if self.forwarder:
            await self.forwarder.begin()
        if self._previous_crashed is None:
            self._previous_crashed = await self._crash_log.register_process()
        return self._previous_crashed

    # --- the path of an event ------------------------------------------------------------------------------

    def _receive(self, arrivals: list[Arrival]) -> None:
        ready = self._order.let_through(arrivals, self.settlement.enter(arrivals))
        if arrivals[0].track.doubted_bytes:
            for arrival in arrivals:  # an event without handlers cannot crash the process
                arrival.doubted = self._app.concerns(arrival.type, arrival.source)
        self._lines.push(ready)

    def _come_back(self, arrivals: list[Arrival], delay_s: float = 0.0) -> None:
        """Requeue events, now or after `delay_s`; while draining, leave them for other listeners."""
        # rule: an event that has not ended returns to its queue
        if self._draining.is_set() or not arrivals:
            return
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._come_back, arrivals)
            return
        self._lines.push_first(arrivals)

    def _come_back_one(self, arrival: Arrival) -> None:
        if arrival.compared is not None:
            self.settlement.end_compared(arrival)
        else:
            self._come_back([arrival])

    def _sort_out(self, claims: Claims) -> None:
        """Settle events that have ended elsewhere, and watch those that are leased elsewhere."""
        self.settlement.ended_elsewhere(claims.ended)
        # rule: an event leased by another listener has not ended
        self._watch.add(claims.taken)

    def _tracks(self) -> Iterable[Track]:
        return [feed.track for feed in self.feeds if feed.track is not None]

    def _reread(self, track: Track) -> None:
        for feed in self.feeds:
            if feed.track is track:
                feed.reread()

    # --- running -------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Process events until `stop` is set or standby is required, then drain.

        If an essential task ends by itself, stop everything and raise its error.
        """
        await self.essentials.run(self._live(stop))

    async def _live(self, stop: asyncio.Event) -> None:
        try:
            async with self._app.alive(Bounds(stop, self.settings.drain_timeout_s, self._emit)):
                try:
                    if not stop.is_set():
                        await self._work_when_allowed(stop)
                finally:
                    self._draining.set()
                    await self.replays.drain(within_s=0.0)  # replays use what the lifespan holds
        finally:
            await asyncio.shield(self._close())

    async def _work_when_allowed(self, stop: asyncio.Event) -> None:
        standby = self.essentials.start(self.standby.watch_loop(), "standby watch")
        watching = self.essentials.start(self._database_watch.run(), "PostgreSQL watch")
        if await wait_any(stop, self.standby.allowed) is self.standby.allowed:
            await self._work(wait_any(stop, self.standby.lost))
        await self.essentials.end([standby, watching])

    async def _work(self, ending: Awaitable[object]) -> None:
        start = self.essentials.start
        intake = [start(feed.run(), f"feed from {feed.shown_url}") for feed in self.feeds]
        intake += [start(claiming, "claim loop") for claiming in self._lines.claiming()]
        intake.append(start(self._watch.watch_loop(), "takeover watch"))
        work = [start(worker, "worker") for worker in self._lines.working()]
        upkeep = [
            start(self.redis.heartbeat_loop(), "heartbeat"),
            start(self.database.probe_loop(), "PostgreSQL probe"),
            start(self.settlement.mark_loop(), "done markers"),
            start(self._repeats.compare_loop(), "comparison of repeated arrivals"),
            start(self._cursors.save_loop(), "cursor saver"),
            start(self._dead_letter_logger.log_loop(), "dead-letter file"),
            start(self._emissions.relay_loop(), "outbox relay"),
            start(self._renew_loop(), "lease renewal"),
            start(self._release_loop(), "lease release"),
            start(self._pruner.prune_loop(), "retention"),
        ]
        if self.forwarder:
            upkeep.append(start(self.forwarder.send_loop(), "dead-letter forwarder"))
        await ending
        await self._drain(intake, work)
        await self.essentials.end(upkeep)

    async def _drain(self, intake: list[asyncio.Task[None]], work: list[asyncio.Task[None]]) -> None:
        """Stop the intake, finish events in flight, release the other leases, save the cursors."""
        self._draining.set()
        self.replays.draining = True
        ends_at_s = self._clock.monotonic_s() + self.settings.drain_timeout_s
        self._emit(Stopping(self.settlement.in_flight))
        await self.essentials.end(intake)
        try:
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self._lines.idle()
        except TimeoutError:
            pass  # unfinished attempts are rolled back; another listener claims their events
        await self.replays.drain(within_s=max(0.0, ends_at_s - self._clock.monotonic_s()))
        await self.essentials.end(work)
        await self.settlement.mark()
        left = self.settlement.all_in_flight()
        for arrival in left:  # a cancelled claim may have leased any of them
            arrival.leased = True
        await self.redis.release(left)
        await self._cursors.save()
        await self._dead_letter_logger.log()
        with contextlib.suppress(Unavailable):
            await self._crash_log.unregister_process()
        if self.forwarder:
            await self.forwarder.drain(max(LAST_SENDING_MIN_S, ends_at_s - self._clock.monotonic_s()))
        self._emit(Stopped(len(left)))

    async def _close(self) -> None:
        if self.forwarder:
            await self.forwarder.close()
        await self._store.close()
        await self._leases.close()

    async def _renew_loop(self) -> None:
        while True:
            working(STALL_S)
            await self._clock.sleep(self.settings.lease_ttl_s / 10)
            await self.redis.renew(self.settlement.all_in_flight())

    async def _release_loop(self) -> None:
        """Release all leases at each pause: another listener may still reach PostgreSQL."""
        while True:
            idle()
            await self._paused.wait()
            working(STALL_S)
            self._paused.clear()
            await self.redis.release(self.settlement.all_in_flight())

    @property
    def standby_reason(self) -> str | None:
        """Why this listener does not replay now; None if it does."""
        return self.standby.standby_reason or ("it is stopping" if self.replays.draining else None)

    # --- health and reports --------------------------------------------------------------------------------

    def _emit(self, telemetry: TelemetryEvent) -> None:
        self.troubles.emit(telemetry)
        self.stats.emit(telemetry)

    def _wake_dead_letter_tasks(self) -> None:
        self._dead_letter_logger.wake()
        if self.forwarder:
            self.forwarder.wake()

    def report(self) -> ListenerReport:
        """Return the current report without a cursor; each feed adds the cursor of its journal."""
        return ListenerReport(
            received=self.stats.received,
            stored=self.stats.stored,
            duplicates=self.stats.duplicates,
            dead=self.stats.dead,
            conflicts=self.stats.conflicts,
            in_flight=self.settlement.in_flight,
            rate=self.stats.rate,
            demonstration=self._app.concerns(FAILING),
            failures=list(self.stats.failures),
            on_standby=self.standby.reason,
            health=self.current_health(),
        )

    def current_health(self) -> Health:
        """Return the current health."""
        return self._board.check()

    def health(self) -> dict[str, Any]:
        """Return the body of `/health`."""
        report = self.report()
        return {
            **msgspec.structs.asdict(self.current_health()),
            "instance": self.settings.instance,
            "group": self.settings.group,
            "received": report.received,
            "stored": report.stored,
            "duplicates": report.duplicates,
            "dead": report.dead,
            "in_flight": report.in_flight,
            "unsent": None if self.forwarder is None else self.forwarder.unforwarded,
            "on_standby": report.on_standby,
            "taken_by_others": self._watch.count,
            "waiting_for_order": self._order.waiting,
            "emissions_held_up": self._emissions.blocked,
            "producers": [shown_feed(feed) for feed in self.feeds],
        }
