"""A run: start a system, publish without pause, hurt it by plan, heal it, let it drain, and judge."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, LiteralString

import httpx2
import msgspec
import psycopg
from psycopg import sql

from oncecast.chaos.checks import FailedCheck, run_checks
from oncecast.chaos.evidence import Waits, collect, measure, record_emissions
from oncecast.chaos.faults import CRASH, KINDS, Fault, only, plan
from oncecast.chaos.injection import FaultInjector
from oncecast.chaos.judge import Verdict, judge
from oncecast.chaos.publishing import LoadPublisher, Publications
from oncecast.chaos.subject import KILLING_EVERY_S, Subject, own
from oncecast.chaos.system import System, running
from oncecast.chaos.watching import CursorWatch
from oncecast.core.errors import ConfigError
from oncecast.embedded import Stack
from oncecast.stores.postgres.session import READABLE

DRAIN_DEADLINE_S = 180.0
"""So long after the last event has ended; a busy machine may take its time for a backlog."""
LOOK_INTERVAL_S = 0.5
REPLAY_INTERVAL_S = 2.0
REPLAYED_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long, how hard, how much."""

    seconds: float
    seed: int
    kinds: Sequence[str]
    targets: Collection[str] = ()
    """Names or sorts of what may be hurt; everything if empty."""
    listeners: int
    producers: int
    events_per_s: float
    subject: Subject | None = None
    """The application; our own if None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosReport:
    """What a run found."""

    app: str
    seed: int
    faults: int
    verdict: Verdict
    failed_checks: Sequence[FailedCheck]
    """Of the application's own."""
    looked_at: int
    """Events that were found behind a cursor, while the run went on."""
    stack_traces: int
    """In the logs of producers and listeners: errors that nobody had foreseen."""
    drained_in_s: float | None
    """From the last healing until nothing was left to do; None if that did not come in time."""
    waits: Waits

    @property
    def is_valid(self) -> bool:
        """Whether the promise was kept."""
        return self.verdict.is_valid and self.drained_in_s is not None and not self.stack_traces

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "valid": self.is_valid}


Tell = Callable[[str, dict[str, Any]], None]
"""Hears what happens: its name, and what belongs to it."""


async def run(folder: Path, settings: Settings, tell: Tell, *, temporary: bool) -> ChaosReport:
    """One run in `folder`. Raises StartError where the system does not start, ConfigError for unknown targets."""
    subject = settings.subject or _own(settings)
    sizes = {"listeners": settings.listeners, "producers": settings.producers}
    async with running(folder, subject, **sizes, temporary=temporary) as system:
        faults = _plan(settings, system)
        async with await _connect(system.stack) as connection:
            await record_emissions(connection, subject.group)
            await run_checks(connection, subject.checks)  # one that is no SQL is told at once
        return await _Run(system, settings, subject, tell).run(faults)


def _own(settings: Settings) -> Subject:
    events_per_s = settings.events_per_s / settings.producers
    return own(killing_every=round(KILLING_EVERY_S * events_per_s) if CRASH in settings.kinds else 0)


async def _connect(stack: Stack) -> psycopg.AsyncConnection[Any]:
    connection = await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True, connect_timeout=5)
    await connection.execute(READABLE.encode())
    return connection


def _plan(settings: Settings, system: System) -> list[Fault]:
    targets = system.targets
    if settings.targets:
        known = {*system.links, *system.stack.processes, *(sort for sorts in targets.values() for sort in sorts)}
        if unknown := set(settings.targets) - known:
            raise ConfigError(f"--targets: there is no {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}")
        targets = only(targets, settings.targets)
    planned = [kind for kind in settings.kinds if kind in KINDS]
    return plan(settings.seed, settings.seconds, planned, targets)


class _Run:
    def __init__(self, system: System, settings: Settings, subject: Subject, tell: Tell) -> None:
        self._system = system
        self._stack = system.stack
        self._settings = settings
        self._subject = subject
        self._tell = tell
        self._publications = Publications()
        self._began_s = time.time()
        self._ended = asyncio.Event()
        self._reading = asyncio.Lock()
        self._desks = {
            name: LoadPublisher(
                system.publish_url(name),
                self._publications,
                events_per_s=settings.events_per_s / settings.producers,
                events=subject.events(random.Random(f"{settings.seed}:{index}")),
            )
            for index, name in enumerate(self._stack.producers)
        }
        self._surgeon = FaultInjector(
            self._stack,
            system.links,
            self._desks,
            self._reading,
            lambda name, error: tell("not started", {"name": name, "error": error}),
        )

    async def run(self, faults: Sequence[Fault]) -> ChaosReport:
        self._names = await self._journal_names()
        journals = {name: self._stack.folder(producer) / "journal.db" for name, producer in self._names.items()}
        watch = CursorWatch(
            self._stack.database_url, self._subject.group, journals, self._stack.publish_urls, self._reading
        )
        async with asyncio.TaskGroup() as group:
            publishers = [group.create_task(desk.publish_until(self._ended)) for desk in self._desks.values()]
            upkeep = [
                group.create_task(task)
                for task in (
                    self._surgeon.restart_for_ever(lambda name: self._tell("restart", {"name": name})),
                    self._replay_for_ever(),
                    watch.watch_for_ever(),
                    self._show_for_ever(),
                )
            ]
            count = await self._hurt_by_plan(faults)
            healed_s = time.monotonic()
            self._ended.set()
            await asyncio.wait(publishers)
            self._tell("draining", {"acknowledged": len(self._publications.acknowledged)})
            drained = await self._drained()
            drained_in_s = round(time.monotonic() - healed_s, 1) if drained else None
            for task in upkeep:
                task.cancel()
        return await self._report(count, watch, drained_in_s)

    async def _journal_names(self) -> dict[str, str]:
        """The producers by the names of their journals."""
        async with httpx2.AsyncClient(trust_env=False, timeout=5.0) as client:
            answers = [await client.get(f"{url}/health") for url in self._stack.publish_urls]
        names = [answer.json()["journal"]["name"] for answer in answers]
        return dict(zip(names, self._stack.producers, strict=True))

    async def _hurt_by_plan(self, faults: Sequence[Fault]) -> int:
        """Until the run's time is over and everything is healed; how many faults there were."""
        began_s, count = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began_s + fault.at_s - time.monotonic()))
                aimed = self._surgeon.aim(fault)
                if aimed.targets:
                    count += 1
                    self._tell("fault", {**asdict(aimed), "acknowledged": len(self._publications.acknowledged)})
                    group.create_task(self._surgeon.inflict(aimed))
            await asyncio.sleep(max(0.0, began_s + self._settings.seconds - time.monotonic()))
        return count

    async def _show_for_ever(self) -> None:
        """What is hurt at this moment, for whoever watches."""
        while True:
            hurt = sorted(self._surgeon.busy)
            self._tell("status", {"acknowledged": len(self._publications.acknowledged), "hurt": hurt})
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _replay_for_ever(self) -> None:
        """An operator who replays what died and may die, through whoever answers, twice at a time."""
        async with httpx2.AsyncClient(trust_env=False, timeout=30.0) as client:
            while True:
                await asyncio.sleep(REPLAY_INTERVAL_S)
                for address in (*self._stack.publish_urls, *self._stack.listener_urls.values()):
                    await _quietly(self._replay(client, f"{address}/api/dead-letters"))

    async def _replay(self, client: httpx2.AsyncClient, url: str) -> None:
        for pattern in self._subject.replayed:
            exactly = {} if pattern.endswith("*") else {"type": pattern}
            answer = await client.get(url, params={"limit": REPLAYED_AT_ONCE, **exactly})
            dead_letters = msgspec.json.decode(answer.content).get("dead_letters", [])
            events = [{"id": dead_letter["id"], "source": dead_letter["source"]} for dead_letter in dead_letters]
            if not events:
                continue
            twice = (client.post(f"{url}/replay", json={"events": events}) for _ in range(2))
            await asyncio.gather(*twice, return_exceptions=True)

    # --- the end -------------------------------------------------------------------------------------------

    async def _drained(self) -> bool:
        """Wait until every event of every producer has ended, and follow-ups too; False if nothing ends any more."""
        deadline_s, ended = time.monotonic() + DRAIN_DEADLINE_S, None
        async with httpx2.AsyncClient(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < deadline_s:
                if await _quietly(self._nothing_is_left(client)):
                    return True
                if (now_ended := await _quietly(self._count_ended()) or ended) != ended:
                    deadline_s, ended = time.monotonic() + DRAIN_DEADLINE_S, now_ended
                await asyncio.sleep(LOOK_INTERVAL_S)
        return False

    async def _count_ended(self) -> int:
        return int((await self._ask("select count(*) from {}.events"))[0])

    async def _ask(self, query: LiteralString) -> tuple[Any, ...]:
        """The first row of a query about the group's schema."""
        async with await _connect(self._stack) as connection:
            found = await connection.execute(sql.SQL(query).format(sql.Identifier(self._subject.group)))
            return await found.fetchone() or ()

    async def _nothing_is_left(self, client: httpx2.AsyncClient) -> bool:
        lasts = await self._lasts(client)
        for url in self._stack.listener_urls.values():
            health = (await client.get(f"{url}/health")).json()
            seen = {feed["journal"]: feed["watermark"] for feed in health["producers"]}
            if health["in_flight"] or health["status"] != "ok" or seen != lasts:
                return False
        # All that had come has ended: what that emitted is in the outbox, or in a journal by now.
        due = await self._ask("select count(*) from {}.outbox where refused_at is null")
        return due == (0,) and await self._lasts(client) == lasts

    async def _lasts(self, client: httpx2.AsyncClient) -> dict[str, int]:
        """The last offset of each journal."""
        journals = [(await client.get(f"{url}/health")).json()["journal"] for url in self._stack.publish_urls]
        return {journal["name"]: journal["last"] for journal in journals}

    async def _report(self, faults: int, watch: CursorWatch, drained_in_s: float | None) -> ChaosReport:
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=5.0) as client,
            await _connect(self._stack) as connection,
        ):
            await watch.look(client)
            failed = await run_checks(connection, self._subject.checks)
            evidence = await collect(connection, self._subject, self._publications, watch.ahead, failed)
            return ChaosReport(
                app=self._subject.target,
                seed=self._settings.seed,
                faults=faults,
                verdict=judge(evidence, self._subject.rules),
                failed_checks=failed,
                looked_at=watch.looked_at,
                stack_traces=await asyncio.to_thread(self._stack_traces),
                drained_in_s=drained_in_s,
                waits=await measure(
                    connection,
                    self._subject,
                    self._surgeon.hurts,
                    self._names,
                    self._stack.listeners,
                    self._began_s,
                ),
            )

    def _stack_traces(self) -> int:
        names = (*self._stack.producers, *self._stack.listeners)
        logs = (self._stack.folder(name) / "output.log" for name in names)
        return sum(log.read_bytes().count(b"Traceback (most recent call last)") for log in logs)


async def _quietly(asking: Awaitable[Any]) -> Any:
    """The answer, or None where whoever was asked is down, or says something else."""
    try:
        return await asking
    except (httpx2.HTTPError, msgspec.MsgspecError, psycopg.Error, KeyError, ValueError):
        return None
