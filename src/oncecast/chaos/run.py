"""A run: start a system, publish without pause, inject and clear faults by plan, drain, and judge."""

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
"""The maximum time without progress; a busy machine may be slow with a backlog."""
CHECK_INTERVAL_S = 0.5
REPLAY_INTERVAL_S = 2.0
REPLAYED_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a run."""

    seconds: float
    seed: int
    kinds: Sequence[str]
    targets: Collection[str] = ()
    """Names or kinds of fault targets; everything if empty."""
    listeners: int
    producers: int
    events_per_s: float
    subject: Subject | None = None
    """The application; the built-in one if None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosReport:
    """The result of a run."""

    app: str
    seed: int
    faults: int
    verdict: Verdict
    failed_checks: Sequence[FailedCheck]
    """Failed checks of the application."""
    events_checked: int
    """Events that were checked behind a cursor during the run."""
    stack_traces: int
    """Stack traces in the logs of producers and listeners: unexpected errors."""
    drained_in_s: float | None
    """From the end of the last fault until no work was left; None if that took too long."""
    waits: Waits

    @property
    def is_valid(self) -> bool:
        """Whether the promise was kept."""
        return self.verdict.is_valid and self.drained_in_s is not None and not self.stack_traces

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        return {**asdict(self), "valid": self.is_valid}


Notify = Callable[[str, dict[str, Any]], None]
"""Called with the name of each step and its details."""


async def run(folder: Path, settings: Settings, notify: Notify, *, temporary: bool) -> ChaosReport:
    """Run once in `folder`. Raises StartError if the system does not start, ConfigError for unknown targets."""
    subject = settings.subject or _own(settings)
    sizes = {"listeners": settings.listeners, "producers": settings.producers}
    async with running(folder, subject, **sizes, temporary=temporary) as system:
        faults = _plan(settings, system)
        async with await _connect(system.stack) as connection:
            await record_emissions(connection, subject.group)
            await run_checks(connection, subject.checks)  # report invalid SQL before the run
        return await _Run(system, settings, subject, notify).run(faults)


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
    def __init__(self, system: System, settings: Settings, subject: Subject, notify: Notify) -> None:
        self._system = system
        self._stack = system.stack
        self._settings = settings
        self._subject = subject
        self._notify = notify
        self._publications = Publications()
        self._began_s = time.time()
        self._ended = asyncio.Event()
        self._reading = asyncio.Lock()
        self._publishers = {
            name: LoadPublisher(
                system.publish_url(name),
                self._publications,
                events_per_s=settings.events_per_s / settings.producers,
                events=subject.events(random.Random(f"{settings.seed}:{index}")),
            )
            for index, name in enumerate(self._stack.producers)
        }
        self._injector = FaultInjector(
            self._stack,
            system.links,
            self._publishers,
            self._reading,
            lambda name, error: notify("not started", {"name": name, "error": error}),
        )

    async def run(self, faults: Sequence[Fault]) -> ChaosReport:
        self._names = await self._journal_names()
        journals = {name: self._stack.folder(producer) / "journal.db" for name, producer in self._names.items()}
        watch = CursorWatch(
            self._stack.database_url, self._subject.group, journals, self._stack.publish_urls, self._reading
        )
        async with asyncio.TaskGroup() as group:
            publishers = [
                group.create_task(publisher.publish_until(self._ended)) for publisher in self._publishers.values()
            ]
            upkeep = [
                group.create_task(task)
                for task in (
                    self._injector.restart_loop(lambda name: self._notify("restart", {"name": name})),
                    self._replay_loop(),
                    watch.run(),
                    self._show_loop(),
                )
            ]
            count = await self._inject_by_plan(faults)
            cleared_s = time.monotonic()
            self._ended.set()
            await asyncio.wait(publishers)
            self._notify("draining", {"acknowledged": len(self._publications.acknowledged)})
            drained = await self._drained()
            drained_in_s = round(time.monotonic() - cleared_s, 1) if drained else None
            for task in upkeep:
                task.cancel()
        return await self._report(count, watch, drained_in_s)

    async def _journal_names(self) -> dict[str, str]:
        """Return the producers by the names of their journals."""
        async with httpx2.AsyncClient(trust_env=False, timeout=5.0) as client:
            answers = [await client.get(f"{url}/health") for url in self._stack.publish_urls]
        names = [answer.json()["journal"]["name"] for answer in answers]
        return dict(zip(names, self._stack.producers, strict=True))

    async def _inject_by_plan(self, faults: Sequence[Fault]) -> int:
        """Inject the faults until the run's time is over and all are cleared; return their number."""
        began_s, count = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began_s + fault.at_s - time.monotonic()))
                picked = self._injector.pick_targets(fault)
                if picked.targets:
                    count += 1
                    self._notify("fault", {**asdict(picked), "acknowledged": len(self._publications.acknowledged)})
                    group.create_task(self._injector.inject(picked))
            await asyncio.sleep(max(0.0, began_s + self._settings.seconds - time.monotonic()))
        return count

    async def _show_loop(self) -> None:
        """Report the active faults, until cancelled."""
        while True:
            faulty = sorted(self._injector.busy)
            self._notify("status", {"acknowledged": len(self._publications.acknowledged), "faulty": faulty})
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _replay_loop(self) -> None:
        """Replay the expected dead letters through every process, twice at the same time, until cancelled."""
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

    # --- drain and report --------------------------------------------------------------------------------------

    async def _drained(self) -> bool:
        """Wait until all events and follow-ups have ended; return False if there is no more progress."""
        deadline_s, ended = time.monotonic() + DRAIN_DEADLINE_S, None
        async with httpx2.AsyncClient(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < deadline_s:
                if await _quietly(self._nothing_is_left(client)):
                    return True
                if (now_ended := await _quietly(self._count_ended()) or ended) != ended:
                    deadline_s, ended = time.monotonic() + DRAIN_DEADLINE_S, now_ended
                await asyncio.sleep(CHECK_INTERVAL_S)
        return False

    async def _count_ended(self) -> int:
        return int((await self._ask("select count(*) from {}.events"))[0])

    async def _ask(self, query: LiteralString) -> tuple[Any, ...]:
        """Return the first row of a query in the group's schema."""
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
        # All received events have ended: what they emitted is in the outbox or in a journal.
        due = await self._ask("select count(*) from {}.outbox where refused_at is null")
        return due == (0,) and await self._lasts(client) == lasts

    async def _lasts(self, client: httpx2.AsyncClient) -> dict[str, int]:
        """Return the last offset of each journal."""
        journals = [(await client.get(f"{url}/health")).json()["journal"] for url in self._stack.publish_urls]
        return {journal["name"]: journal["last"] for journal in journals}

    async def _report(self, faults: int, watch: CursorWatch, drained_in_s: float | None) -> ChaosReport:
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=5.0) as client,
            await _connect(self._stack) as connection,
        ):
            await watch.check(client)
            failed = await run_checks(connection, self._subject.checks)
            evidence = await collect(connection, self._subject, self._publications, watch.ahead, failed)
            return ChaosReport(
                app=self._subject.target,
                seed=self._settings.seed,
                faults=faults,
                verdict=judge(evidence, self._subject.rules),
                failed_checks=failed,
                events_checked=watch.events_checked,
                stack_traces=await asyncio.to_thread(self._stack_traces),
                drained_in_s=drained_in_s,
                waits=await measure(
                    connection,
                    self._subject,
                    self._injector.outages,
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
    """Return the result, or None if the server is down or responds with an error."""
    try:
        return await asking
    except (httpx2.HTTPError, msgspec.MsgspecError, psycopg.Error, KeyError, ValueError):
        return None
