"""A run: the real producers and listeners on memory, in virtual time, hurt by a schedule, and judged."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import msgspec

from oncecast.chaos.judge import Evidence, Verdict, judge
from oncecast.core.errors import JournalUnavailable, Unavailable
from oncecast.core.event import DEFAULT_SOURCE, Event
from oncecast.core.ports import Batch
from oncecast.core.wire import Answer, Ask, decode_heads, events_frame, resume_after
from oncecast.journal import memory
from oncecast.journal.memory import Kept, MemoryJournal
from oncecast.listener.attempt import AttemptLimits
from oncecast.listener.service import ListenerService, ListenerSettings
from oncecast.producer.app import Producer, ProducerSettings
from oncecast.producer.retention import RetentionLimits
from oncecast.stores.memory import (
    MemoryDeaths,
    MemoryEvents,
    MemoryLeases,
    MemoryLetters,
    MemoryPostgres,
    MemoryRedis,
)
from oncecast.stores.memory.postgres import Session, Tables
from tests.simulation.application import application
from tests.simulation.loop import OWNER, NothingLeft, VirtualLoop, owned_by
from tests.simulation.network import Wire
from tests.simulation.schedule import Action, Schedule

GROUP = "simulated"
CALL_DEADLINE_S = 32.0
REDIS_DEADLINE_S = 2.0
DIAL_DEADLINE_S = 10.0
REST_DEADLINE_S = 300.0
"""So much virtual time after the last fault has healed, everything has come to rest."""
LOOK_INTERVAL_S = 1.0


Calling = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


def begin(work: Awaitable[Any]) -> asyncio.Future[Any]:
    """A task of whoever owns the moment; the loop keeps it."""
    return asyncio.ensure_future(work)


class Stalled(Exception):
    """What should have ended has not."""


@dataclass(slots=True)
class Result:
    """What a run found; `violations` is empty if the promise was kept."""

    verdict: Verdict
    violations: list[str]
    history: list[str]
    injected: Counter[str]
    steps: int


class SimulatedPostgres(MemoryPostgres):
    """A client that is lost leaves its session behind, for a while."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def abandon(self, session: Session) -> None:
        with owned_by("postgres"):
            self._world.loop.call_later(self._world.draw.uniform(0, 8), self.roll_back, session)


@dataclass(slots=True)
class Process:
    """A listener or a producer: `owner` is this life of it."""

    name: str
    lives: int = 0
    owner: str = ""
    running: bool = False
    service: Any = None
    stop: asyncio.Event | None = None


@dataclass(slots=True)
class Faults:
    """What is out of order just now."""

    cut: Counter[str] = field(default_factory=Counter)
    """Links and servers, by how many faults."""
    lossy: Counter[str] = field(default_factory=Counter)
    """Clients whose answers may be lost."""


class World:
    """Everything there is in a run."""

    def __init__(self, schedule: Schedule, loop: VirtualLoop) -> None:
        self.schedule = schedule
        self.loop = loop
        self.draw = random.Random(schedule.seed)
        self.history: list[str] = []
        self.violations: list[str] = []
        self.injected: Counter[str] = Counter()
        self.postgres = SimulatedPostgres(self)
        self.redis = MemoryRedis(loop.time)
        self.faults = Faults()
        self.kept = [Kept() for _ in range(schedule.producers)]
        self.producers = [Process(f"producer-{n}") for n in range(schedule.producers)]
        self.listeners = [Process(f"listener-{n}") for n in range(schedule.listeners)]
        self.wires: list[Wire] = []
        self.wall_s = 0.0
        self.tried: set[str] = set()
        self.acknowledged: set[str] = set()
        self.since_copy: list[list[bytes] | None] = [None] * schedule.producers
        self.restores = [0] * schedule.producers
        self.ahead: set[str] = set()
        self.given_up: list[tuple[str, int, int, list[str]]] = []
        self.nobodys: set[str] = set()
        self.window_bytes = self.draw.choice((4_000, 64 * 1024))
        self.snapshots: list[Tables] = []
        fails_over = any(action.kind == "postgres fails over" for action in schedule.actions)
        self.max_age_s = 1e6 if fails_over else 10.0  # what PostgreSQL loses, a journal must still have

    def tell(self, text: str) -> None:
        """For whoever reads the history of a run that failed."""
        self.history.append(f"{self.loop.now_s - 1_000:8.3f}  {text}")

    # --- calls that leave a process --------------------------------------------------------------------------

    def latency_s(self) -> float:
        """Of one way of one call."""
        return self.draw.choice((0.0, 0.001, 0.01, self.draw.uniform(0, 0.3)))

    def is_cut(self, client: str, server: str) -> bool:
        """Whether nothing gets from one to the other just now."""
        return bool(self.faults.cut[server] or self.faults.cut[f"{client}>{server}"])

    def call_to(self, server: str, client: str, deadline_s: float) -> Calling:
        """How `client` calls `server`: slowly, perhaps in vain, and perhaps without hearing that it was not."""

        async def call(act: Callable[[], Awaitable[Any]]) -> Any:
            await asyncio.sleep(self.latency_s())
            if self.is_cut(client, server):
                await asyncio.sleep(self.draw.choice((0.0, deadline_s)))
                raise ConnectionRefusedError(f"{server} cannot be reached")
            with owned_by(server):
                acting = begin(act())
            async with asyncio.timeout(deadline_s):
                result = await asyncio.shield(acting)
                await asyncio.sleep(self.latency_s())
            if self.is_cut(client, server) or (self.faults.lossy[client] and self.draw.random() < 0.3):
                raise ConnectionResetError("the answer is lost")
            return result

        return call

    def redis_call(self, client: str) -> Callable[[Callable[[], Any]], Awaitable[Any]]:
        """As redis-py would: whatever goes wrong, it is Unavailable."""
        call = self.call_to("redis", client, REDIS_DEADLINE_S)

        async def call_redis(act: Callable[[], Any]) -> Any:
            async def acting() -> Any:
                return act()

            try:
                return await call(acting)
            except (OSError, TimeoutError) as error:
                raise Unavailable(f"Redis: {error}") from error

        return call_redis

    @asynccontextmanager
    async def dial(self, url: str) -> AsyncIterator[Wire]:
        """See Dial; the URL is a producer's name."""
        listener = OWNER.get()
        name = listener.partition("#")[0]
        producer = next(process for process in self.producers if process.name == url)
        await asyncio.sleep(self.latency_s())
        if not producer.running or self.is_cut(name, url):
            await asyncio.sleep(self.draw.choice((0.0, DIAL_DEADLINE_S)))
            raise ConnectionRefusedError(f"{url} cannot be reached")
        wire = Wire(name, url, self.latency_s)
        self.wires.append(wire)
        with owned_by(producer.owner):
            begin(producer.service.app(wire.scope, wire.asgi_receive, wire.asgi_send))
        try:
            yield wire
        finally:
            self.break_wires(lambda other: other is wire)

    def break_wires(self, concerned: Callable[[Wire], bool]) -> None:
        """Each side hears of it in its own time."""
        for wire in [wire for wire in self.wires if concerned(wire)]:
            self.wires.remove(wire)
            with owned_by("world"):
                self.loop.call_later(self.draw.choice((0.0, self.draw.uniform(0, 15))), wire.end_down)
                self.loop.call_later(self.draw.choice((0.0, self.draw.uniform(0, 15))), wire.end_up)

    # --- processes -------------------------------------------------------------------------------------------

    def start_producer(self, number: int) -> None:
        """Open its journal anew."""
        process = self.producers[number]
        self._begin(process)
        with owned_by(process.owner):
            journal = MemoryJournal(self.kept[number])
            settings = ProducerSettings(
                instance=process.name, retention=RetentionLimits(max_age_s=self.max_age_s, retain_for=(GROUP,))
            )
            process.service = Producer(journal, settings, metrics=lambda: b"", observe=lambda _fact: None)
            begin(process.service.retention.run_for_ever())
        self.tell(f"{process.name} begins, epoch {journal.epochs[-1]}")

    def start_listener(self, number: int) -> None:
        """A new life, with a token of its own."""
        process = self.listeners[number]
        self._begin(process)
        with owned_by(process.owner):
            begin(self._listen(process))
        self.tell(f"{process.name} begins")

    def _begin(self, process: Process) -> None:
        process.lives += 1
        process.owner = f"{process.name}#{process.lives}"
        process.running = True

    async def _listen(self, process: Process) -> None:
        token = process.owner.ljust(16, ".")
        call = self.call_to("postgres", process.name, CALL_DEADLINE_S)
        client: dict[str, Any] = {"instance": process.name, "token": token, "call": call}
        leases = MemoryLeases(
            self.redis, token=token, lease_ttl_s=30.0, mark_ttl_s=15.0, call=self.redis_call(process.name)
        )

        async def answer(ask: Ask) -> Answer:
            return Answer(id=ask.id, status=404, body="{}")

        process.stop = asyncio.Event()
        service = process.service = ListenerService(
            application(self.draw, lambda: self.vanish(process)),
            leases,
            MemoryEvents(self.postgres, **client),
            MemoryDeaths(self.postgres, **client),
            MemoryLetters(self.postgres, **client),
            _Log(),
            ListenerSettings(
                instance=process.name,
                group=GROUP,
                producer_urls=[producer.name for producer in self.producers],
                window_bytes=self.window_bytes,
                attempts=AttemptLimits(pauses_max=5),
                adopt_handlers=True,
            ),
            answer,
            lambda fact: self.tell(f"{process.name}: {fact}") if self.is_told else None,
            dial=self.dial,
        )
        try:
            await service.run(process.stop)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self.violations.append(f"{process.name} ended with {error!r}")
            raise
        process.running = False
        self.tell(f"{process.name} has ended in order")

    is_told = False

    def vanish(self, process: Process) -> None:
        """It is gone, without a word."""
        if not process.running:
            return
        self.tell(f"{process.name} vanishes")
        process.running = False
        token = process.owner.ljust(16, ".")
        self.loop.vanish(process.owner)
        self.break_wires(lambda wire: process.name in (wire.listener, wire.producer))
        with owned_by("postgres"):
            self.loop.call_later(self.draw.choice((0.0, self.draw.uniform(0, 20))), self.postgres.terminate, token)

    # --- publishing ------------------------------------------------------------------------------------------

    async def publish(self, number: int, events: Sequence[bytes]) -> None:
        """Until the producer says that it has them, under the same ids."""
        ids = {msgspec.json.decode(event)["id"] for event in events}
        self.tried |= ids
        body = b"[" + b",".join(events) + b"]"
        process = self.producers[number]
        while True:
            if process.running and not self.faults.cut[f"publishers>{process.name}"]:
                restores = self.restores[number]
                with owned_by(process.owner):
                    posting = begin(_post(process.service, body))
                with suppress(TimeoutError):
                    async with asyncio.timeout(10.0):
                        status = await asyncio.shield(posting)
                        await asyncio.sleep(self.latency_s())
                        is_heard = self.draw.random() > 0.1
                        if status == 202 and is_heard and restores == self.restores[number]:
                            break
            await asyncio.sleep(self.draw.uniform(0.1, 1.0))
        self.acknowledged |= ids - self.nobodys
        if (since := self.since_copy[number]) is not None:
            since.extend(events)

    # --- faults ----------------------------------------------------------------------------------------------

    async def inflict(self, action: Action) -> None:
        """Do it, wait for its length, heal."""
        self.tell(f"{action.kind} ({action.which}) for {action.length_s} s")
        self.injected[action.kind] += 1
        listener = self.listeners[action.which % len(self.listeners)]
        number = action.which % len(self.producers)
        producer = self.producers[number]
        match action.kind:
            case "crash":
                self.vanish(listener)
            case "freeze" | "producer freeze":
                await self._freeze(listener if action.kind == "freeze" else producer, action.length_s)
            case "stop":
                if listener.stop is not None:
                    listener.stop.set()
            case "cut postgres":
                await self._cut(f"{listener.name}>postgres", action.length_s)
            case "cut redis":
                await self._cut(f"{listener.name}>redis", action.length_s)
            case "cut producer":
                self.break_wires(lambda wire: (wire.listener, wire.producer) == (listener.name, producer.name))
                await self._cut(f"{listener.name}>{producer.name}", action.length_s)
            case "lose answers":
                self.faults.lossy[listener.name] += 1
                await asyncio.sleep(action.length_s)
                self.faults.lossy[listener.name] -= 1
            case "postgres down":
                self.postgres.fail_over(self.postgres.tables)
                await self._cut("postgres", action.length_s)
            case "postgres fails over":
                if self.snapshots:
                    self.postgres.fail_over(self.snapshots[action.which % len(self.snapshots)])
            case "redis down":
                self.redis.empty()
                await self._cut("redis", action.length_s)
            case "redis emptied":
                self.redis.empty()
            case "producer crash":
                self.vanish(producer)
            case "journal refuses":
                await self._refuse(producer, action.length_s)
            case "journal restored":
                await self._restore(number, action.length_s)
            case "journal skipped":
                self._skip(number)
            case "wall clock":
                self.wall_s += self.draw.choice((-3600.0, 3600.0))
            case "publish again" | "publish otherwise":
                await self._publish_again(number, otherwise=action.kind == "publish otherwise")
            case "replay":
                await self._replay(listener)

    async def _cut(self, what: str, seconds: float) -> None:
        self.faults.cut[what] += 1
        await asyncio.sleep(seconds)
        self.faults.cut[what] -= 1

    async def _freeze(self, process: Process, seconds: float) -> None:
        owner = process.owner
        self.loop.freeze(owner)
        await asyncio.sleep(seconds)
        self.loop.thaw(owner)

    async def _refuse(self, producer: Process, seconds: float) -> None:
        journal = producer.service._journal
        journal.failure = JournalUnavailable("the disk is full")
        await asyncio.sleep(seconds)
        journal.failure = None

    async def _restore(self, number: int, seconds: float) -> None:
        """Back to a copy from `seconds` ago; its publishers are told, and publish again what it lacks."""
        if self.since_copy[number] is not None:
            return
        copy = deepcopy(self.kept[number])
        since: list[bytes] = []
        self.since_copy[number] = since
        await asyncio.sleep(seconds)
        self.vanish(self.producers[number])
        self.kept[number] = copy
        self.restores[number] += 1
        self.start_producer(number)
        self.since_copy[number] = None
        if since:
            await self.publish(number, since)

    def _skip(self, number: int) -> None:
        """One row of the journal is damaged before anybody has read it, and given up."""
        batches = self.kept[number].batches
        unread = [n for n, batch in enumerate(batches) if not batch.is_gap and self._is_unread(number, batch)]
        if not unread:
            return
        self.vanish(self.producers[number])
        lost = batches[unread[-1]]
        self.tell(f"offsets {lost.first_offset} to {lost.last_offset} are given up")
        ids = [head.id for head in decode_heads(events_frame(1, 0, lost.body))]
        self.given_up.append((self.kept[number].name, lost.first_offset, lost.last_offset, ids))
        batches[unread[-1]] = Batch(lost.first_offset, lost.count, lost.at_us, b"[]")
        self.nobodys.update(ids)  # an operator has said so
        self.acknowledged.difference_update(ids)

    def _is_unread(self, number: int, batch: Batch) -> bool:
        seen = [
            feed.track.watermark.received
            for process in self.listeners
            if process.service is not None
            for feed in process.service.feeds
            if feed.url == self.producers[number].name and feed.track is not None
        ]
        return batch.first_offset > max(seen, default=0)

    async def _publish_again(self, number: int, *, otherwise: bool) -> None:
        if self.acknowledged:
            id_ = self.draw.choice(sorted(self.acknowledged))
            await self.publish(number, [_event(id_, 1 if otherwise else 0)])

    async def _replay(self, listener: Process) -> None:
        dead = [row for row in self.postgres.tables.rows.values() if row.status == "dead"]
        if not dead:
            return
        row = self.draw.choice(dead)
        for process in (listener, *self.listeners):
            if process.running and process.service is not None:
                with owned_by(process.owner):
                    begin(process.service.replays.replay(row.source, row.id))

    # --- the run ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything from the first start to rest."""
        for number in range(len(self.producers)):
            self.start_producer(number)
        for number in range(len(self.listeners)):
            self.start_listener(number)
        upkeep = [begin(task) for task in (self._restart_for_ever(), self._look_for_ever())]
        try:
            async with asyncio.TaskGroup() as group:
                for at_s, number, ids in self.schedule.publications:
                    group.create_task(self._at(at_s, self.publish(number, [_event(id_, 0) for id_ in ids])))
                for action in self.schedule.actions:
                    group.create_task(self._at(action.at_s, self.inflict(action)))
            self.tell("healed")
            await self._rest()
        finally:
            for task in upkeep:
                task.cancel()

    async def _at(self, at_s: float, act: Awaitable[None]) -> None:
        await asyncio.sleep(at_s)
        await act

    async def _restart_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.draw.uniform(0.2, 2.0))
            for number, process in enumerate(self.listeners):
                if not process.running:
                    self.start_listener(number)
            for number, process in enumerate(self.producers):
                if not process.running:
                    self.start_producer(number)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            self.check_cursors()
            if self.draw.random() < 0.2:
                self.snapshots.append(self.postgres.snapshot())

    def check_cursors(self) -> None:
        """No cursor stands behind an event that has no row."""
        tables = self.postgres.tables
        rows = {row.id for row in tables.rows.values()}
        for kept in self.kept:
            saved = tables.cursors.get(kept.name)
            if saved is None:
                continue
            last = resume_after(saved.cursor, saved.epochs, kept.epochs)
            for batch in kept.batches:
                if batch.is_gap:
                    continue
                heads = decode_heads(events_frame(batch.first_offset, 0, batch.body))
                passed = (head.id for n, head in enumerate(heads, batch.first_offset) if n <= last)
                self.ahead |= {id_ for id_ in passed if id_ not in rows and id_ not in self.nobodys}

    async def _rest(self) -> None:
        deadline_s = self.loop.time() + REST_DEADLINE_S
        while not self._is_at_rest():
            if self.loop.time() > deadline_s:
                raise Stalled("not everything has ended")
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _is_at_rest(self) -> bool:
        """Every listener has seen everything end, and knows that the cursor stands behind it."""
        lasts = {kept.name: kept.batches[-1].last_offset if kept.batches else 0 for kept in self.kept}
        rows = {row.id for row in self.postgres.tables.rows.values()}
        everybody = (*self.listeners, *self.producers)
        if not self.acknowledged <= rows or not all(process.running for process in everybody):
            return False
        for process in self.listeners:
            service = process.service
            if service is None or service.settlement.in_flight:
                return False
            tracks = [feed.track for feed in service.feeds if feed.track is not None]
            places = {track.journal: (track.watermark.value, track.saved.offset) for track in tracks}
            if places != {journal: (last, last) for journal, last in lasts.items()}:
                return False
        return True

    def _wrong_gaps(self, tables: Tables) -> Iterator[str]:
        """What was given up is recorded as a gap, or was read before; nothing else is recorded."""
        if any(self.restores):
            return  # then what was given up may have come back
        rows = {row.id for row in tables.rows.values()}
        gone = {
            (journal, offset)
            for journal, first, last, ids in self.given_up
            for offset, id_ in zip(range(first, last + 1), ids, strict=True)
            if id_ not in rows
        }
        given_up = {(journal, n) for journal, first, last, _ in self.given_up for n in range(first, last + 1)}
        recorded = {(journal, n) for journal, _, first, last, _ in tables.gaps for n in range(first, last + 1)}
        if missing := sorted(gone - recorded):
            yield f"gaps: {missing} are recorded by nobody"
        if false := sorted(recorded - given_up):
            yield f"gaps: {false} were never given up"

    def result(self) -> Result:
        """The judge's word."""
        self.check_cursors()
        tables = self.postgres.tables
        self.violations += self._wrong_gaps(tables)
        verdict = judge(
            Evidence(
                tried=self.tried,
                acknowledged=self.acknowledged,
                rows={row.id: row.status for row in tables.rows.values()},
                effects=tables.effects,
                ahead=self.ahead,
                gaps=0 if self.given_up else len(tables.gaps),
            )
        )
        wrong = {name: count for name, count in list(verdict.as_dict().items())[4:] if count}
        violations = [*self.violations, *(f"{name}: {count}" for name, count in wrong.items())]
        return Result(verdict, violations, self.history, self.injected, self.loop.steps)


class _Log:
    async def append(self, lines: Sequence[bytes]) -> None:
        """Written."""


def _event(id: str, n: int) -> bytes:
    return Event.new(
        id.partition(":")[0], {"n": n}, id=id, source=DEFAULT_SOURCE, time="2026-01-01T00:00:00Z"
    ).to_json()


async def _post(producer: Producer, body: bytes) -> int:
    """What it answers to `POST /events`."""
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/events",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
    }
    await producer.app(scope, receive, send)
    return status


def simulate(schedule: Schedule, *, told: bool = False) -> Result:
    """One run; the same schedule gives the same result."""
    loop = VirtualLoop()
    with _instead_of_the_world(loop, schedule.seed) as clock:
        world = World(schedule, loop)
        world.is_told = told
        clock.append(world)
        try:
            loop.run_until_complete(world.run())
        except (Stalled, NothingLeft) as error:
            world.violations.append(f"stalled: {error}")
        return world.result()


@contextmanager
def _instead_of_the_world(loop: VirtualLoop, seed: int) -> Iterator[list[World]]:
    """Clocks, chance and names come from the run alone."""
    worlds: list[World] = []
    names = random.Random(seed)
    before = (time.monotonic, time.time, memory.time_ns, secrets.token_hex, random.getstate())
    offset_s = 1_700_000_000.0

    def wall_s() -> float:
        return offset_s + loop.time() + (worlds[0].wall_s if worlds else 0.0)

    time.monotonic, time.time = loop.time, wall_s  # type: ignore[assignment]
    memory.time_ns = lambda: int(wall_s() * 1e9)  # type: ignore[assignment]
    secrets.token_hex = lambda n=8: f"{names.getrandbits(8 * (n or 8)):0{2 * (n or 8)}x}"  # type: ignore[assignment]
    random.seed(seed)
    try:
        yield worlds
    finally:
        time.monotonic, time.time, memory.time_ns, secrets.token_hex = before[:4]  # type: ignore[assignment]
        random.setstate(before[4])
        loop.abandon()
