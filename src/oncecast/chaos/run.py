"""A run: start a system, publish without pause, hurt it by plan, heal it, let it drain, and judge."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import redis.asyncio as redis

from oncecast.chaos.application import EFFECTS
from oncecast.chaos.faults import Fault, plan
from oncecast.chaos.judge import Evidence, Verdict, judge
from oncecast.chaos.publishing import Publications, publish_until
from oncecast.core.errors import StartError
from oncecast.embedded import Stack

APP = "oncecast.chaos.application:app"
DRAIN_DEADLINE_S = 180.0
LOOK_INTERVAL_S = 0.5
REPLAY_INTERVAL_S = 2.0
REPLAY_LETTERS = 20
_STALLS = """
select coalesce(max(extract(epoch from stored_at - before)), 0)::float8 from (
    select stored_at, lag(stored_at) over (order by stored_at) as before from chaos.events) as stored
"""
_LONGEST = """
select coalesce(max(extract(epoch from stored_at - accepted_at)), 0)::float8 from chaos.events where type = 'tick'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long, how hard, how much."""

    seconds: float
    seed: int
    kinds: Sequence[str]
    listeners: int
    producers: int
    events_per_s: float
    kills: bool = True
    """Whether some events end the process that handles them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run found."""

    seed: int
    faults: int
    verdict: Verdict
    drained: bool
    """Whether everything came to rest in time after the last fault."""
    longest_stall_s: float
    """The longest time in which no row was stored, while events were published."""
    longest_accepted_to_stored_s: float

    @property
    def is_valid(self) -> bool:
        """Whether the promise was kept."""
        return self.verdict.is_valid and self.drained

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "valid": self.is_valid}


Tell = Callable[[str, dict[str, Any]], None]
"""Hears what happens: its name, and what belongs to it."""


async def run(folder: Path, settings: Settings, tell: Tell) -> Report:
    """One run in `folder`. Raises StartError where the system does not start."""
    stack = Stack(
        folder,
        listeners=settings.listeners,
        producers=settings.producers,
        producer_port=0,
        listener_port=0,
        app=APP,
        temporary=True,
    )
    async with stack:
        await _prepare(stack)
        return await _Run(stack, settings, tell).run()


async def _prepare(stack: Stack) -> None:
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        await connection.execute(EFFECTS)


class _Run:
    def __init__(self, stack: Stack, settings: Settings, tell: Tell) -> None:
        self._stack = stack
        self._settings = settings
        self._tell = tell
        self._publications = Publications()
        self._ended = asyncio.Event()
        self._hurt: set[str] = set()
        """What a fault has down, and will heal itself."""

    async def run(self) -> Report:
        settings = self._settings
        faults = plan(
            settings.seed,
            settings.seconds,
            settings.kinds,
            {
                "producers": [name for name in self._stack.processes if name.startswith("producer")],
                "listeners": list(self._stack.listener_urls),
                "postgres": ["postgres"],
                "valkey": ["valkey"],
            },
        )
        async with asyncio.TaskGroup() as group:
            publishers = [
                group.create_task(
                    publish_until(
                        self._ended,
                        url,
                        self._publications,
                        events_per_s=settings.events_per_s / settings.producers,
                        kills=settings.kills and index == 0,
                        draw=random.Random(f"{settings.seed}:{index}"),
                    )
                )
                for index, url in enumerate(self._stack.publish_urls)
            ]
            upkeep = [group.create_task(task) for task in (self._restart_for_ever(), self._replay_for_ever())]
            await self._hurt_by_plan(faults)
            self._ended.set()
            await asyncio.wait(publishers)
            self._tell("draining", {"acknowledged": len(self._publications.acknowledged)})
            drained = await self._drained()
            for task in upkeep:
                task.cancel()
        return await self._judge(len(faults), drained=drained)

    # --- faults --------------------------------------------------------------------------------------------

    async def _hurt_by_plan(self, faults: Sequence[Fault]) -> None:
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began_s + fault.at_s - time.monotonic()))
                acknowledged = len(self._publications.acknowledged)
                self._tell("fault", {**asdict(fault), "acknowledged": acknowledged})
                group.create_task(self._inflict(fault))
            await asyncio.sleep(max(0.0, began_s + self._settings.seconds - time.monotonic()))

    async def _inflict(self, fault: Fault) -> None:
        if fault.kind == "empty":
            await self._empty_valkey()
            return
        targets = [name for name in fault.targets if name not in self._hurt]
        self._hurt.update(targets)
        try:
            await asyncio.gather(*(self._down(fault.kind, name) for name in targets))
            await asyncio.sleep(fault.length_s)
        finally:
            await asyncio.gather(*(self._up(fault.kind, name) for name in targets))
            self._hurt.difference_update(targets)

    async def _down(self, kind: str, name: str) -> None:
        if kind == "pause":
            self._stack.pause(name)
        else:
            await (self._stack.kill if kind == "kill" else self._stack.stop)(name)

    async def _up(self, kind: str, name: str) -> None:
        if kind == "pause":
            self._stack.resume(name)
        else:
            await self._started(name)

    async def _started(self, name: str) -> None:
        """Begun again, whether or not what it needs is there."""
        try:
            await self._stack.begin(name)
        except StartError as error:
            self._tell("not started", {"name": name, "error": str(error)})

    async def _empty_valkey(self) -> None:
        client = redis.Redis.from_url(self._stack.redis_url, socket_timeout=1, socket_connect_timeout=1)
        try:
            await client.flushall()
        except (redis.RedisError, OSError):
            return  # it is down just now
        finally:
            await client.aclose()

    async def _restart_for_ever(self) -> None:
        """Whatever ended without a fault of ours (its handler killed it, say) comes back, as under any supervisor."""
        while True:
            for name, process in self._stack.processes.items():
                if process.pid is None and name not in self._hurt:
                    self._tell("restart", {"name": name})
                    await self._started(name)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _replay_for_ever(self) -> None:
        """An operator who replays what died, through whoever answers, twice at a time."""
        async with httpx.AsyncClient(timeout=30.0) as client:
            while True:
                await asyncio.sleep(REPLAY_INTERVAL_S)
                for address in (*self._stack.publish_urls, *self._stack.listener_urls.values()):
                    await _quietly(self._replay(client, f"{address}/api/dead-letters"))

    async def _replay(self, client: httpx.AsyncClient, url: str) -> None:
        answer = await client.get(url, params={"limit": REPLAY_LETTERS, "type": "flaky"})
        letters = msgspec.json.decode(answer.content).get("dead_letters", [])
        if letters:
            events = [{"id": letter["id"], "source": letter["source"]} for letter in letters]
            twice = (client.post(f"{url}/replay", json={"events": events}) for _ in range(2))
            await asyncio.gather(*twice, return_exceptions=True)

    # --- the end -------------------------------------------------------------------------------------------

    async def _drained(self) -> bool:
        """Wait until every listener has seen every event of every producer end; whether that came in time."""
        deadline_s = time.monotonic() + DRAIN_DEADLINE_S
        async with httpx.AsyncClient(timeout=5.0) as client:
            while time.monotonic() < deadline_s:
                if await _quietly(self._nothing_is_left(client)):
                    return True
                await asyncio.sleep(LOOK_INTERVAL_S)
        return False

    async def _nothing_is_left(self, client: httpx.AsyncClient) -> bool:
        lasts: dict[str, int] = {}
        for url in self._stack.publish_urls:
            journal = (await client.get(f"{url}/health")).json()["journal"]
            lasts[journal["name"]] = journal["last"]
        for url in self._stack.listener_urls.values():
            health = (await client.get(f"{url}/health")).json()
            seen = {feed["journal"]: feed["watermark"] for feed in health["producers"]}
            if health["in_flight"] or health["status"] != "ok" or seen != lasts:
                return False
        return True

    async def _judge(self, faults: int, *, drained: bool) -> Report:
        async with await psycopg.AsyncConnection.connect(self._stack.database_url, autocommit=True) as connection:

            async def pairs(query: str) -> dict[str, Any]:
                return dict(await (await connection.execute(query)).fetchall())

            async def number(query: str) -> float:
                row = await (await connection.execute(query)).fetchone()
                return round(row[0], 1) if row else 0.0

            evidence = Evidence(
                tried=self._publications.tried,
                acknowledged=self._publications.acknowledged,
                rows=await pairs("select id, status from chaos.events"),
                effects=await pairs("select id, count from public.effects"),
            )
            return Report(
                seed=self._settings.seed,
                faults=faults,
                verdict=judge(evidence),
                drained=drained,
                longest_stall_s=await number(_STALLS),
                longest_accepted_to_stored_s=await number(_LONGEST),
            )


async def _quietly(asking: Awaitable[Any]) -> Any:
    """The answer, or None where whoever was asked is down, or says something else."""
    try:
        return await asking
    except (httpx.HTTPError, msgspec.MsgspecError, KeyError, ValueError):
        return None
