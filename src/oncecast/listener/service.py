"""The listener as a whole: its feeds, its pipeline and its upkeep, how they run and drain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from oncecast.app.application import App
from oncecast.app.demo import FAILING
from oncecast.app.isolation import RunOptions
from oncecast.app.lifespan import Bounds
from oncecast.core.clock import Clock
from oncecast.core.dead_letter_ports import DeadLetterBroker, DeadLetterLog, DeadLetters, UnforwardedDeadLetters
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.health import Health
from oncecast.core.ports import CrashLog, Leases, ListenerStore, Outbox, Publish
from oncecast.core.ranges import RangeRules, range_rules
from oncecast.core.retry import Backoff
from oncecast.core.telemetry import Record, Stopped, Stopping, TelemetryEvent
from oncecast.core.wire import Answer, Ask, ListenerReport
from oncecast.listener.background.health_checks import Troubles, board_of
from oncecast.listener.background.outbox_relay import Emissions
from oncecast.listener.background.pruning import Pruner
from oncecast.listener.background.standby import Standby
from oncecast.listener.dead_letters.forwarding import DeadLetterForwarder
from oncecast.listener.dead_letters.logging import DeadLetterLogger
from oncecast.listener.dead_letters.replay import Replays
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.listener.dependencies.postgres_watch import DatabaseWatch
from oncecast.listener.feed.dial import Dial, websocket_dial
from oncecast.listener.feed.feed import Feed
from oncecast.listener.feed.journals import Journals
from oncecast.listener.feed.track import Track
from oncecast.listener.http.openapi import ListenerHealth, ProducerConnection
from oncecast.listener.pipeline.attempt import AttemptLimits
from oncecast.listener.pipeline.cursor import CursorSaver
from oncecast.listener.pipeline.pipeline import Parts, Pipeline
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
    window_bytes: int = 64 * 1024 * 1024
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
        store: ListenerStore,
        crash_log: CrashLog,
        dead_letters: DeadLetters,
        dead_letter_log: DeadLetterLog,
        outbox: Outbox,
        settings: ListenerSettings,
        answer: Callable[[Ask], Awaitable[Answer]],
        publish: Publish,
        record: Record,
        clock: Clock,
        *,
        dial: Dial | None = None,
        check_emitted: Callable[[bytes], None] | None = None,
        sending: tuple[UnforwardedDeadLetters, DeadLetterBroker] | None = None,
        last_resort: LastResort | None = None,
        rules: RangeRules | None = None,
    ) -> None:
        self._clock = clock
        self.essentials = Essentials(clock, end_within_s=settings.drain_timeout_s, last_resort=last_resort)
        self._rules = rules or range_rules(app.batch_sizes)
        self._draining = asyncio.Event()
        self._dial = dial or websocket_dial(settings.tokens, self._draining.is_set)
        self.stats = Stats(clock, record)
        self.standby = Standby(store, app.selectors, clock, force=settings.force_handlers, record=record)
        self.settings = settings
        self._app = app
        self._leases = leases
        self._answer = answer
        self._store = store
        self._crash_log = crash_log
        self._previous_crashed: bool | None = None
        self._paused = asyncio.Event()
        self.redis = LeaseGate(leases, clock, lease_ttl_s=settings.lease_ttl_s, record=self._record)
        self.database = DatabaseGate(
            store,
            clock,
            probe_interval_s=settings.probe_interval_s,
            paused=self._paused.set,
            record=self._record,
        )
        self.recent = Recent(settings.instance, clock)
        self._emissions = Emissions(outbox, publish, self.database, clock, record=self._record)
        exclusive_run = ExclusiveRun()
        options = RunOptions(
            clock=clock,
            timeout_s=settings.attempts.handler_timeout_s,
            check_emitted=check_emitted,
            record=self._record,
        )
        self.pipeline = Pipeline(
            Parts(
                app=app,
                store=store,
                crash_log=crash_log,
                leases=self.redis,
                database=self.database,
                recent=self.recent,
                exclusive_run=exclusive_run,
                options=options,
                limits=settings.attempts,
            ),
            lease_ttl_s=settings.lease_ttl_s,
            emitted=self._emissions.wake,
            dead_lettered=self._wake_dead_letter_tasks,
            record=self._record,
        )
        self._journals = Journals(store, settings.group)
        self.feeds = [self._feed(url) for url in settings.producer_urls]
        self._dead_letter_logger = DeadLetterLogger(store, dead_letter_log, self.database, clock, record=self._record)
        self.forwarder = DeadLetterForwarder(*sending, self.database, clock, record=self._record) if sending else None
        self._pruner = Pruner(store, self.database, clock, keep_s=settings.events_retention_s, record=self._record)
        self.replays = Replays(
            app,
            dead_letters,
            exclusive_run,
            options,
            concurrency=settings.attempts.handler_concurrency,
            record=self._record,
        )
        self._cursors = CursorSaver(store, self.database, clock, tracks=self._tracks, record=self._record)

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
            rules=self._rules,
            reconnect=settings.reconnect,
            from_latest=settings.from_latest,
            clock=self._clock,
            store=self._store,
            journals=self._journals,
            ready=self._ready,
            receive=self.pipeline.receive,
            report=self.report,
            answer=self._answer,
            record=self._record,
        )

    async def _ready(self) -> bool:
        """Wait for PostgreSQL; return whether the previous process of this name crashed."""
        await self.database.wait()
        if self.forwarder:
            await self.forwarder.begin()
        if self._previous_crashed is None:
            self._previous_crashed = await self._crash_log.register_process()
        return self._previous_crashed

    def _tracks(self) -> Iterable[Track]:
        return [feed.track for feed in self.feeds if feed.track is not None]

    # --- running -------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Process events until `stop` is set or standby is required, then drain.

        If an essential task ends by itself, stop everything and raise its error.
        """
        await self.essentials.run(self._live(stop))

    async def _live(self, stop: asyncio.Event) -> None:
        try:
            async with self._app.alive(Bounds(stop, self.settings.drain_timeout_s, self._record)):
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
        intake += [start(loop, "claim loop") for loop in self.pipeline.claim_loops()]
        intake.append(start(self.pipeline.watch_loop(), "takeover watch"))
        work = [start(worker, "worker") for worker in self.pipeline.work_loops()]
        work.append(start(self.pipeline.record_loop(), "record of ended ranges"))
        upkeep = [
            start(self.redis.heartbeat_loop(), "heartbeat"),
            start(self.database.probe_loop(), "PostgreSQL probe"),
            start(self.pipeline.compare_loop(), "comparison of repeated arrivals"),
            start(self._cursors.save_loop(), "cursor saver"),
            start(self._dead_letter_logger.log_loop(), "dead-letter file"),
            start(self._emissions.relay_loop(), "outbox relay"),
            start(self.pipeline.renew_loop(), "lease renewal"),
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
        self._record(Stopping(self.pipeline.in_flight))
        await self.essentials.end(intake)
        try:
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self.pipeline.finish_claimed()
        except TimeoutError:
            pass  # unfinished attempts are rolled back; another listener claims their events
        await self.replays.drain(within_s=max(0.0, ends_at_s - self._clock.monotonic_s()))
        await self.essentials.end(work)
        left = await self.pipeline.hand_over()
        await self._cursors.save()
        await self._dead_letter_logger.log()
        with contextlib.suppress(Unavailable, RowLocked):
            await self._crash_log.unregister_process()
        if self.forwarder:
            await self.forwarder.drain(max(LAST_SENDING_MIN_S, ends_at_s - self._clock.monotonic_s()))
        self._record(Stopped(left))

    async def _close(self) -> None:
        if self.forwarder:
            await self.forwarder.close()
        await self._store.close()
        await self._leases.close()

    async def _release_loop(self) -> None:
        """Release all leases at each pause: another listener may still reach PostgreSQL."""
        while True:
            idle()
            await self._paused.wait()
            working(STALL_S)
            self._paused.clear()
            await self.pipeline.release_all()

    @property
    def standby_reason(self) -> str | None:
        """Why this listener does not replay now; None if it does."""
        return self.standby.standby_reason or ("it is stopping" if self.replays.draining else None)

    # --- health and reports --------------------------------------------------------------------------------

    def _record(self, telemetry: TelemetryEvent) -> None:
        self.troubles.record(telemetry)
        self.stats.record(telemetry)

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
            in_flight=self.pipeline.in_flight,
            rate=self.stats.rate,
            demonstration=self._app.concerns(FAILING),
            failures=list(self.stats.failures),
            on_standby=self.standby.reason,
            health=self.current_health(),
        )

    def current_health(self) -> Health:
        """Return the current health."""
        return self._board.check()

    def health(self) -> ListenerHealth:
        """Return the body of `/health`."""
        report = self.report()
        return ListenerHealth(
            instance=self.settings.instance,
            group=self.settings.group,
            received=report.received,
            stored=report.stored,
            duplicates=report.duplicates,
            dead=report.dead,
            in_flight=report.in_flight,
            unsent=None if self.forwarder is None else self.forwarder.unforwarded,
            on_standby=report.on_standby,
            taken_by_others=self.pipeline.takeovers.count,
            waiting_for_order=sum(len(track.followers) for track in self._tracks()),
            emissions_held_up=self._emissions.blocked,
            producers=[_shown(feed) for feed in self.feeds],
            **msgspec.structs.asdict(self.current_health()),
        )


def _shown(feed: Feed) -> ProducerConnection:
    track = feed.track
    return ProducerConnection(
        url=feed.shown_url,
        connected=feed.connected,
        journal=track.journal if track else None,
        received=track.watermark.received if track else 0,
        watermark=track.watermark.value if track else 0,
        cursor=str(track.saved) if track else None,
    )
