"""Inject faults into a stack and its links, clear them, and record the outages for the judge."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import redis.asyncio as redis

from oncecast.chaos.copies import copy_journal, events_behind, last_offset
from oncecast.chaos.faults import INSTANT, Fault
from oncecast.chaos.links import Link
from oncecast.chaos.publishing import LoadPublisher
from oncecast.chaos.stalls import Outage
from oncecast.core.errors import StartError
from oncecast.embedded import Stack
from oncecast.embedded.valkey import MAXMEMORY

RESTART_INTERVAL_S = 0.5
VALKEY_DEADLINE_S = 1.0


class FaultInjector:
    """Injects the faults of a plan. `publishers` are by producer; `not_started(name, error)` reports failures.

    Holds the lock `reading` while a journal is copied or restored: nobody else may have it open.
    """

    def __init__(
        self,
        stack: Stack,
        links: Mapping[str, Link],
        publishers: Mapping[str, LoadPublisher],
        reading: asyncio.Lock,
        not_started: Callable[[str, str], None],
    ) -> None:
        self.outages: list[Outage] = []
        self._stack = stack
        self._links = links
        self._publishers = publishers
        self._reading = reading
        self._not_started = not_started
        self.busy: set[str] = set()
        """The targets of active faults."""

    def pick_targets(self, fault: Fault) -> Fault:
        """Return the fault with its targets that have no active fault; reserve these."""
        targets = tuple(name for name in fault.targets if name not in self.busy)
        self.busy.update(targets)
        return replace(fault, targets=targets)

    async def inject(self, fault: Fault) -> None:
        """Inject a fault with picked targets, wait for its length, and clear it."""
        try:
            async with asyncio.TaskGroup() as group:
                for name in fault.targets:
                    group.create_task(self._inject(fault, name))
        finally:
            self.busy.difference_update(fault.targets)

    async def _inject(self, fault: Fault, name: str) -> None:
        match fault.kind:
            case "kill" | "stop":
                await self._away(fault, name)
            case "pause":
                with self._outage(name):
                    self._stack.pause(name)
                    await asyncio.sleep(fault.length_s)
                    self._stack.resume(name)
            case "empty" | "refuse":
                await self._valkey(fault)
            case "full":
                await self._full(fault, name)
            case "restore":
                await self._restore(fault, name)
            case _:
                await self._link(fault, self._links[name])

    @contextmanager
    def _outage(self, name: str) -> Iterator[None]:
        begin_s = time.time()
        try:
            yield
        finally:
            self.outages.append(Outage(name, begin_s, time.time()))

    # --- processes -----------------------------------------------------------------------------------------

    async def _away(self, fault: Fault, name: str) -> None:
        with self._outage(name):
            await (self._stack.kill if fault.kind == "kill" else self._stack.stop)(name)
            await asyncio.sleep(fault.length_s)
            await self._begin(name)

    async def _begin(self, name: str) -> None:
        """Start a process, even if its dependencies are down."""
        try:
            await self._stack.begin(name)
        except StartError as error:
            self._not_started(name, str(error))

    async def restart_loop(self, restarted: Callable[[str], None]) -> None:
        """Restart processes that ended without an injected fault, such as by a handler, until cancelled."""
        while True:
            for name, process in self._stack.processes.items():
                if process.pid is None and name not in self.busy:
                    restarted(name)
                    await self._begin(name)
            await asyncio.sleep(RESTART_INTERVAL_S)

    # --- links ---------------------------------------------------------------------------------------------

    async def _link(self, fault: Fault, link: Link) -> None:
        with self._outage(link.name) if fault.kind not in INSTANT else contextlib.nullcontext():
            link.inject(fault.kind, fault.way)
            await asyncio.sleep(fault.length_s)
            link.clear()

    # --- Valkey --------------------------------------------------------------------------------------------

    async def _valkey(self, fault: Fault) -> None:
        if fault.kind == "empty":
            await self._call_valkey(lambda client: client.flushall())
            return
        await self._call_valkey(lambda client: client.config_set("maxmemory", "1"))
        await asyncio.sleep(fault.length_s)
        await self._call_valkey(lambda client: client.config_set("maxmemory", MAXMEMORY))

    async def _call_valkey(self, command: Callable[[redis.Redis], Awaitable[object]]) -> None:
        client = redis.Redis.from_url(
            self._stack.redis_url, socket_timeout=VALKEY_DEADLINE_S, socket_connect_timeout=VALKEY_DEADLINE_S
        )
        try:
            await command(client)
        except (redis.RedisError, OSError):
            return  # it is down, and will start with its own settings
        finally:
            await client.aclose()

    # --- journals ------------------------------------------------------------------------------------------

    def _journal(self, name: str) -> Path:
        return self._stack.folder(name) / "journal.db"

    async def _full(self, fault: Fault, name: str) -> None:
        """Limit the file size of this producer, so that its writes fail as on a full disk, and no others."""
        pid = self._stack.process(name).pid
        if pid is None:
            return
        journal = self._journal(name)
        sizes = (path.stat().st_size for path in (journal, Path(f"{journal}-wal")) if path.exists())
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (max(sizes, default=0), limits[1]))
        await asyncio.sleep(fault.length_s)
        if self._stack.process(name).pid == pid:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    async def _restore(self, fault: Fault, name: str) -> None:
        """Copy the journal while its producer is down, run it on, then restore the copy and notify its publisher."""
        journal, copy = self._journal(name), self._stack.folder(name) / "copy"
        self._publishers[name].copied()
        with self._outage(name):
            await self._stack.stop(name)
            async with self._reading:
                last = await asyncio.to_thread(last_offset, journal)
                await asyncio.to_thread(copy_journal, journal, copy)
            await self._begin(name)
        await asyncio.sleep(fault.length_s)
        with self._outage(name):
            await self._stack.kill(name)
            async with self._reading:
                lost = await asyncio.to_thread(events_behind, journal, last)
                await asyncio.to_thread(copy_journal, copy / journal.name, journal.parent)
            self._publishers[name].restored(lost)
            await self._begin(name)
