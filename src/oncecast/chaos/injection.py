"""How each fault is done to a stack and its links, and undone; and when what was hurt, for the judge."""

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
    """Does what a plan says. `desks` are the publishers by producer, `not_started(name, error)` hears of failures.

    While a journal is copied or put back, `reading` is held: nobody else may have it open.
    """

    def __init__(
        self,
        stack: Stack,
        links: Mapping[str, Link],
        desks: Mapping[str, LoadPublisher],
        reading: asyncio.Lock,
        not_started: Callable[[str, str], None],
    ) -> None:
        self.hurts: list[Outage] = []
        self._stack = stack
        self._links = links
        self._desks = desks
        self._reading = reading
        self._not_started = not_started
        self.busy: set[str] = set()
        """What a fault has hurt, and will heal itself."""

    def aim(self, fault: Fault) -> Fault:
        """The fault on those of its targets that no other has hurt already; they are its own from now on."""
        targets = tuple(name for name in fault.targets if name not in self.busy)
        self.busy.update(targets)
        return replace(fault, targets=targets)

    async def inflict(self, fault: Fault) -> None:
        """Do what was aimed, wait for its length, heal."""
        try:
            async with asyncio.TaskGroup() as group:
                for name in fault.targets:
                    group.create_task(self._inflict(fault, name))
        finally:
            self.busy.difference_update(fault.targets)

    async def _inflict(self, fault: Fault, name: str) -> None:
        match fault.kind:
            case "kill" | "stop":
                await self._away(fault, name)
            case "pause":
                with self._hurt(name):
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
    def _hurt(self, name: str) -> Iterator[None]:
        begin_s = time.time()
        try:
            yield
        finally:
            self.hurts.append(Outage(name, begin_s, time.time()))

    # --- processes -----------------------------------------------------------------------------------------

    async def _away(self, fault: Fault, name: str) -> None:
        with self._hurt(name):
            await (self._stack.kill if fault.kind == "kill" else self._stack.stop)(name)
            await asyncio.sleep(fault.length_s)
            await self._begin(name)

    async def _begin(self, name: str) -> None:
        """Begun again, whether or not what it needs is there."""
        try:
            await self._stack.begin(name)
        except StartError as error:
            self._not_started(name, str(error))

    async def restart_for_ever(self, restarted: Callable[[str], None]) -> None:
        """Whatever ended without a fault of ours (its handler killed it, say) comes back, as under any supervisor."""
        while True:
            for name, process in self._stack.processes.items():
                if process.pid is None and name not in self.busy:
                    restarted(name)
                    await self._begin(name)
            await asyncio.sleep(RESTART_INTERVAL_S)

    # --- links ---------------------------------------------------------------------------------------------

    async def _link(self, fault: Fault, link: Link) -> None:
        with self._hurt(link.name) if fault.kind not in INSTANT else contextlib.nullcontext():
            link.hurt(fault.kind, fault.way)
            await asyncio.sleep(fault.length_s)
            link.heal()

    # --- Valkey --------------------------------------------------------------------------------------------

    async def _valkey(self, fault: Fault) -> None:
        if fault.kind == "empty":
            await self._tell_valkey(lambda client: client.flushall())
            return
        await self._tell_valkey(lambda client: client.config_set("maxmemory", "1"))
        await asyncio.sleep(fault.length_s)
        await self._tell_valkey(lambda client: client.config_set("maxmemory", MAXMEMORY))

    async def _tell_valkey(self, command: Callable[[redis.Redis], Awaitable[object]]) -> None:
        client = redis.Redis.from_url(
            self._stack.redis_url, socket_timeout=VALKEY_DEADLINE_S, socket_connect_timeout=VALKEY_DEADLINE_S
        )
        try:
            await command(client)
        except (redis.RedisError, OSError):
            return  # it is down just now, and comes back with its own settings
        finally:
            await client.aclose()

    # --- journals ------------------------------------------------------------------------------------------

    def _journal(self, name: str) -> Path:
        return self._stack.folder(name) / "journal.db"

    async def _full(self, fault: Fault, name: str) -> None:
        """No file of this producer may grow: what a full disk says to its writes, and to nobody else's."""
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
        """Copy the journal while its producer is down; let it go on; then put it back, and tell its publishers."""
        journal, copy = self._journal(name), self._stack.folder(name) / "copy"
        self._desks[name].copied()
        with self._hurt(name):
            await self._stack.stop(name)
            async with self._reading:
                last = await asyncio.to_thread(last_offset, journal)
                await asyncio.to_thread(copy_journal, journal, copy)
            await self._begin(name)
        await asyncio.sleep(fault.length_s)
        with self._hurt(name):
            await self._stack.kill(name)
            async with self._reading:
                lost = await asyncio.to_thread(events_behind, journal, last)
                await asyncio.to_thread(copy_journal, copy / journal.name, journal.parent)
            self._desks[name].restored(lost)
            await self._begin(name)
