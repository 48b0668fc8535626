"""Build running services from settings; the only module that names concrete adapters and joins them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from importlib.metadata import version

import msgspec
from starlette.types import ASGIApp

from oncecast import forks
from oncecast.app.application import App
from oncecast.client.emissions import ProducersPublisher
from oncecast.clock import SYSTEM_CLOCK
from oncecast.config import Common, ListenerConfig, ProducerConfig
from oncecast.core.dead_letter_ports import DeadLetterBroker
from oncecast.core.dead_letter_url import RabbitMQAddress, SqsAddress
from oncecast.core.errors import ConfigError, JournalCorrupt, JournalUnavailable, StartError, Unavailable
from oncecast.core.retry import Backoff
from oncecast.core.telemetry import ProcessStarted, Record, StartFailed
from oncecast.core.wire import ANSWER_MAX_BYTES
from oncecast.gauges import show_listener, show_producer
from oncecast.http.connections import HttpLimits
from oncecast.http.guard import LOCAL_HOSTS, OriginGuard
from oncecast.http.server import bind, serve
from oncecast.http.tokens import TokenMiddleware, Tokens
from oncecast.journal import JournalLimits, SqliteJournal
from oncecast.listener.background.loop_watch import loop_watched
from oncecast.listener.background.open_work_counts import OpenWorkCounts
from oncecast.listener.http.app import listener_app
from oncecast.listener.http.app import right_for as listener_needs
from oncecast.listener.http.conflicts import conflicts_routes
from oncecast.listener.http.dead_letters import dead_letter_routes
from oncecast.listener.http.pruning import pruning_routes
from oncecast.listener.http.relayed import AdminRelay
from oncecast.listener.pipeline.attempt import AttemptLimits
from oncecast.listener.service import ListenerService, ListenerSettings
from oncecast.observe.logs import start_logging
from oncecast.observe.loop_delay import loop_delay_measured
from oncecast.observe.metrics import Metrics, all_of
from oncecast.producer.app import Producer, ProducerSettings
from oncecast.producer.app import right_for as producer_needs
from oncecast.producer.cloudevents.publishable import check_publishable
from oncecast.producer.intake import IntakeLimits
from oncecast.producer.retention import RetentionLimits
from oncecast.stores.dead_letter_file import DeadLetterFile
from oncecast.stores.postgres import (
    Database,
    EventReader,
    PostgresConflicts,
    PostgresCrashLog,
    PostgresDeadLetters,
    PostgresEvents,
    PostgresOutbox,
    PostgresUnforwarded,
)
from oncecast.stores.postgres.database import Limits
from oncecast.stores.redis import RedisLeases
from oncecast.tasks import Essentials, LastResort

WS_MARGIN_BYTES = 64 * 1024
STOP_DRAINS = 2
"""A stopping process has DRAIN_TIMEOUT twice: for the drain, and for the end of the lifespan."""
STOP_MARGIN_S = 10.0
"""Time for the rest of a stop: responses in progress, cursors, connections."""
BLOCKED_S = 30.0
"""Time added to LEASE_TTL for leases in Redis, because a listener whose event loop is blocked renews none."""


async def run_producer(config: ProducerConfig) -> None:
    """Run a producer until SIGTERM or SIGINT. Raises StartError if it cannot start."""
    _check_exposure(
        config,
        PUBLISH_TOKEN=config.publish_token,
        SUBSCRIBE_TOKEN=config.subscribe_token,
        LISTENER_TOKENS=config.listener_tokens,
        ADMIN_TOKEN=config.admin_token,
    )
    forks.guard(asyncio.get_running_loop())
    metrics = Metrics("producer")
    record = all_of(metrics.record, log_of(config))
    last_resort = LastResort()
    async with _stop_on_signals(config, last_resort) as stop:
        await _start_patiently(lambda: _produce(config, metrics, record, stop, last_resort), config, record, stop)


async def _produce(
    config: ProducerConfig, metrics: Metrics, record: Record, stop: asyncio.Event, last_resort: LastResort
) -> None:
    with closing(bind(config.host, config.port)) as listening:
        try:
            journal = await SqliteJournal.open(
                config.journal_path,
                SYSTEM_CLOCK,
                limits=JournalLimits(frame_max_bytes=config.frame_max_bytes),
                record=record,
            )
        except JournalCorrupt as error:
            what = f"{config.journal_path}: {error}"
            raise StartError(f"{what}; 'oncecast journal check' tells what can be done") from error
        except JournalUnavailable as error:
            raise StartError(str(error)) from error
        record(_started("producer", listening, f"journal {config.journal_path} ({journal.name})"))
        try:
            settings = ProducerSettings(
                instance=config.instance_id,
                source=config.event_source,
                drain_timeout_s=config.drain_timeout,
                ring_max_bytes=config.window_bytes,
                intake=IntakeLimits(
                    event_max_bytes=config.event_max_bytes,
                    request_max_bytes=config.request_max_bytes,
                    request_max_events=config.request_max_events,
                    requests_max_bytes=config.requests_max_bytes,
                ),
                retention=RetentionLimits(
                    max_bytes=config.journal_max_bytes,
                    max_age_s=config.journal_max_age,
                    initial_groups=config.initial_groups,
                    group_expires_s=config.group_expires,
                ),
            )
            producer = Producer(
                journal, settings, SYSTEM_CLOCK, metrics=metrics.text, record=record, last_resort=last_resort
            )
            producer.stop = stop
            show_producer(metrics, producer, journal)
            tokens = Tokens(
                publish=config.publish_token,
                subscribe=config.subscribe_token,
                admin=config.admin_token,
                listeners=config.listener_tokens,
            )
            app = TokenMiddleware(producer.app, tokens, producer_needs, record) if tokens else producer.app
            limits, frame_max_bytes = _http_limits(config), max(config.event_max_bytes, ANSWER_MAX_BYTES)
            face = serve(
                _guarded(app, config, record),
                listening,
                stop,
                SYSTEM_CLOCK,
                ws_max_bytes=frame_max_bytes + WS_MARGIN_BYTES,
                limits=limits,
                record=record,
            )
            with loop_delay_measured(metrics.loop_delayed):
                await producer.run(face)
        finally:
            await journal.close()


async def run_listener(config: ListenerConfig, app: App) -> None:
    """Run a listener until SIGTERM or SIGINT, then drain it. Raises StartError if it cannot start."""
    _check_exposure(config, SUBSCRIBE_TOKEN=config.subscribe_token, ADMIN_TOKEN=config.admin_token)
    dead_letter_broker(config.dead_letter_url, config.instance_id)  # raises ConfigError before anything starts
    forks.guard(asyncio.get_running_loop())
    metrics = Metrics("listener")
    record = all_of(metrics.record, log_of(config, app.packages))
    last_resort = LastResort()
    async with _stop_on_signals(config, last_resort) as stop:

        async def listen() -> None:
            await _listen(config, app, metrics, record, stop, last_resort)
            while not stop.is_set():  # the group has another application by now: restart on standby, without force
                await _listen(replace(config, force_handlers=False), app, metrics, record, stop, last_resort)

        with loop_watched(record, SYSTEM_CLOCK), loop_delay_measured(metrics.loop_delayed):
            await _start_patiently(listen, config, record, stop)


async def _listen(
    config: ListenerConfig,
    app: App,
    metrics: Metrics,
    record: Record,
    stop: asyncio.Event,
    last_resort: LastResort,
) -> None:
    token = SYSTEM_CLOCK.new_token(8)
    with closing(bind(config.host, config.port)) as listening:
        record(_started("listener", listening, f"group {config.listener_group}"))
        database = _database(config, token)
        leases = RedisLeases(
            config.redis_url,
            group=config.listener_group,
            token=token,
            lease_ttl_s=config.lease_ttl + BLOCKED_S,
            mark_ttl_s=config.mark_ttl,
        )
        store = PostgresEvents(database)
        crash_log = PostgresCrashLog(database)
        dead_letters = PostgresDeadLetters(database)
        conflicts = PostgresConflicts(database)
        reader = EventReader(database)
        open_work = OpenWorkCounts(reader, SYSTEM_CLOCK)
        record = all_of(open_work.record, record)
        dead_letter_log = DeadLetterFile(config.dead_letter_path)
        settings = _listener_settings(config)
        broker = dead_letter_broker(config.dead_letter_url, config.instance_id)
        relayed = AdminRelay()
        publisher = ProducersPublisher(config.ws_url, SYSTEM_CLOCK, token=config.publish_token)
        service = ListenerService(
            app,
            leases,
            store,
            crash_log,
            dead_letters,
            dead_letter_log,
            PostgresOutbox(database),
            settings,
            relayed.answer,
            publisher.publish,
            record,
            SYSTEM_CLOCK,
            check_emitted=check_publishable,
            sending=None if broker is None else (PostgresUnforwarded(database), broker),
            last_resort=last_resort,
        )
        face = relayed.app = listener_app(
            reader,
            service.recent,
            [
                *dead_letter_routes(
                    dead_letters,
                    service.replays,
                    SYSTEM_CLOCK,
                    standby_reason=lambda: service.standby_reason,
                    record=record,
                ),
                *conflicts_routes(
                    conflicts, service.replays, standby_reason=lambda: service.standby_reason, record=record
                ),
                *pruning_routes(store, record),
            ],
            health=lambda: msgspec.structs.replace(service.health(), conflicts_open=open_work.conflicts),
            essentials=service.essentials,
            metrics=metrics.text,
        )
        show_listener(metrics, service, open_work)
        tokens = Tokens(subscribe=config.subscribe_token, admin=config.admin_token)
        door = TokenMiddleware(face, tokens, listener_needs, record) if tokens else face
        drained = asyncio.Event()
        face_ends = Essentials(SYSTEM_CLOCK, end_within_s=config.drain_timeout, last_resort=last_resort)
        limits = _http_limits(config)
        guarded = _guarded(door, config, record)
        served = serve(
            guarded,
            listening,
            drained,
            SYSTEM_CLOCK,
            ws_max_bytes=WS_MARGIN_BYTES,
            limits=limits,
            record=record,
        )
        serving = face_ends.start(served, "HTTP server")
        counting: list[asyncio.Task[None]] = []

        async def listen_and_close() -> None:
            try:
                if await _prepare(database, config, all_of(service.troubles.record, record), stop):
                    counting.append(face_ends.start(open_work.run(), "count of open work"))
                    await service.run(stop)
                else:
                    await database.close()
            finally:
                face_ends.may_end(serving)
                drained.set()
                await face_ends.end(counting)
                await asyncio.wait([serving])
                await publisher.close()

        await face_ends.run(listen_and_close())


def _http_limits(config: Common) -> HttpLimits:
    return HttpLimits(
        head_max_bytes=config.request_head_max_bytes,
        head_timeout_s=config.request_head_timeout,
        connections_max=config.connections_max,
        connections_per_address=config.connections_per_address,
    )


def dead_letter_broker(address: RabbitMQAddress | SqsAddress | None, instance: str) -> DeadLetterBroker | None:
    """Return the broker at `address`. Raises ConfigError if its library is not installed."""
    try:
        if isinstance(address, RabbitMQAddress):
            from oncecast.stores.rabbitmq import RabbitMQ

            return RabbitMQ(address, instance=instance)
        if isinstance(address, SqsAddress):
            from oncecast.stores.sqs import Sqs

            return Sqs(address)
    except ModuleNotFoundError as error:
        extra = "rabbitmq" if isinstance(address, RabbitMQAddress) else "sqs"
        library = (error.name or extra).partition(".")[0]
        raise ConfigError(f"DEAD_LETTER_URL: {library} is not installed: pip install 'oncecast[{extra}]'") from error
    return None


async def _start_patiently(
    start: Callable[[], Awaitable[None]], config: Common, record: Record, stop: asyncio.Event
) -> None:
    """Run the whole application; try START_ATTEMPTS times to start it. Raises the last StartError."""
    for left in range(config.start_attempts - 1, -1, -1):
        try:
            return await start()
        except StartError as error:
            if not left or stop.is_set():
                raise
            record(StartFailed(str(error), left, config.start_retry_delay))
        if await _stopped_within(stop, config.start_retry_delay):
            return None
    return None


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


def _database(config: ListenerConfig, token: str) -> Database:
    return Database(
        config.database_url,
        SYSTEM_CLOCK,
        schema=config.listener_group,
        instance=config.instance_id,
        token=token,
        limits=Limits(
            pool_size=config.db_pool,
            handlers_max=config.handler_concurrency,
            lock_s=config.lock_timeout,
            statement_s=config.statement_timeout,
            idle_in_transaction_s=config.handler_timeout + 5.0,
        ),
    )


async def migrate_database(config: ListenerConfig, *, grant_to: str | None) -> Sequence[str]:
    """Migrate the group's schema; return the names of the applied migrations. Raises StartError, Unavailable."""
    return await _database(config, SYSTEM_CLOCK.new_token(8)).migrate(grant_to=grant_to)


async def migration_script(config: ListenerConfig, *, grant_to: str | None) -> str:
    """Return the SQL that would migrate the group's schema. Raises StartError, Unavailable."""
    return await _database(config, SYSTEM_CLOCK.new_token(8)).migration_script(grant_to=grant_to)


def _listener_settings(config: ListenerConfig) -> ListenerSettings:
    return ListenerSettings(
        instance=config.instance_id,
        group=config.listener_group,
        producer_urls=config.ws_url,
        tokens=config.tokens_by_url,
        window_bytes=config.window_bytes,
        attempts=AttemptLimits(
            db_attempts=config.db_attempts,
            db_retry_delay_s=config.db_retry_delay,
            event_attempts=config.event_attempts,
            event_retry_delay_s=config.event_retry_delay,
            db_errors_per_event_max=config.db_errors_per_event_max,
            crashes_per_event_max=config.crashes_per_event_max,
            handler_timeout_s=config.handler_timeout,
            handler_concurrency=min(config.handler_concurrency, config.db_pool),
            retry_after_max_s=config.retry_after_max,
        ),
        lease_ttl_s=config.lease_ttl,
        probe_interval_s=config.probe_interval,
        reconnect=Backoff(base_s=config.reconnect_base, max_s=config.reconnect_max),
        drain_timeout_s=config.drain_timeout,
        from_latest=config.start_from == "latest",
        events_retention_s=config.events_retention,
        force_handlers=config.force_handlers,
    )


async def _prepare(database: Database, config: ListenerConfig, record: Record, stop: asyncio.Event) -> bool:
    """Connect to PostgreSQL and migrate the schema; return False if `stop` is set meanwhile.

    Tries DB_CONNECT_ATTEMPTS times. Raises StartError after the last one.
    """
    await database.open()
    for left in range(config.db_connect_attempts - 1, -1, -1):
        try:
            await database.prepare()
        except Unavailable as error:
            if not left:
                await database.close()
                raise StartError(f"{error} (tried {config.db_connect_attempts} times); check DATABASE_URL") from error
            record(StartFailed(str(error), left, config.db_connect_delay))
            if await _stopped_within(stop, config.db_connect_delay):
                return False
        except StartError:
            await database.close()
            raise
        else:
            return True
    return False


def _check_exposure(config: Common, **tokens: object) -> None:
    missing = [name for name, token in tokens.items() if not token]
    if missing and config.host not in LOCAL_HOSTS and not config.allow_no_token:
        raise ConfigError(
            f"HOST={config.host} lets in anybody who reaches this machine: set {', '.join(missing)};"
            " or ALLOW_NO_TOKEN=1 if that is meant"
        )


def _guarded(app: ASGIApp, config: Common, record: Record) -> OriginGuard:
    return OriginGuard(
        app,
        bound_host=config.host,
        allowed_hosts=config.allowed_hosts,
        allowed_origins=config.allowed_origins,
        record=record,
    )


def log_of(config: Common, packages: Iterable[str] = ()) -> Record:
    """Configure logging, also for users' code and libraries; return the function that logs telemetry events."""
    return start_logging(config.instance_id, format=config.log_format, level=config.log_level, packages=packages)


def _started(what: str, listening: socket.socket, serving: str) -> ProcessStarted:
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return ProcessStarted(what, version("oncecast"), os.getpid(), address, serving)


@asynccontextmanager
async def _stop_on_signals(config: Common, last_resort: LastResort) -> AsyncIterator[asyncio.Event]:
    """Return an event that SIGTERM and SIGINT set; a second signal ends the process at once.

    The signal handler is Python's, not the event loop's: it runs even while a user's handler blocks the loop.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    stopping = False

    def on_signal(number: int, _frame: object) -> None:
        nonlocal stopping
        if stopping:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stopping = True
        within_s = STOP_DRAINS * config.drain_timeout + STOP_MARGIN_S
        last_resort.arm(
            within_s, status=1, why=f"it did not end within {within_s:g} s of {signal.Signals(number).name}"
        )
        loop.call_soon_threadsafe(stop.set)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
