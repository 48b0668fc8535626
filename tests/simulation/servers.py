"""Calls to PostgreSQL or Redis in simulation: slow, cut, delayed by a frozen server, or with a lost answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oncecast.core.errors import Unavailable
from oncecast.testing.memory.call import Act, ServerCall
from tests.simulation.loop import begin, owned_by, sleep

LOSS = 0.3


class Servers:
    """The active faults between clients and servers; `felt` counts the calls that each fault has affected."""

    def __init__(self, draw: random.Random, on_act: Callable[[], None]) -> None:
        self._draw = draw
        self._on_act = on_act
        self._thawed: dict[str, asyncio.Event] = {}
        self.cut: Counter[str] = Counter()
        """Servers and links (`CLIENT>SERVER`), with the number of faults that cut them."""
        self.lossy: Counter[str] = Counter()
        """Clients, with the number of faults that lose answers to them."""
        self.felt: Counter[str] = Counter()

    def latency_s(self) -> float:
        """Draw the latency of one direction of a call."""
        draw = self._draw.random()
        return 0.0 if draw < 0.25 else 0.001 if draw < 0.5 else 0.01 if draw < 0.75 else 1.2 * (draw - 0.75)

    @contextmanager
    def without(self, what: str) -> Iterator[None]:
        """Cut a server, or a link (`CLIENT>SERVER`), in the block."""
        self.cut[what] += 1
        yield
        self.cut[what] -= 1
        if not self.cut[what]:
            del self.cut[what]

    def is_cut(self, client: str, server: str) -> bool:
        """Whether the client cannot reach the server."""
        if not self.cut:
            return False
        link = f"{client}>{server}"
        if not (self.cut[server] or self.cut[link]):
            return False
        self.felt[server] += 1
        self.felt[link] += 1
        return True

    def loses(self, client: str) -> bool:
        """Whether the next answer to the client is lost."""
        if not self.lossy[client] or self._draw.random() > LOSS:
            return False
        self.felt[client] += 1
        return True

    async def freeze(self, server: str, seconds: float) -> None:
        """Freeze a server: it handles pending calls afterwards, even if their clients have given up."""
        if server in self._thawed:
            return
        thawed = self._thawed[server] = asyncio.Event()
        await sleep(seconds)
        del self._thawed[server]
        thawed.set()

    def call_to(self, server: str, client: str, deadline_s: float) -> ServerCall:
        """Return how `client` calls `server`: OSError or TimeoutError mean only that the result is unknown."""

        async def call(act: Act) -> Any:
            await sleep(self.latency_s())
            if self.is_cut(client, server):
                await sleep(self._draw.choice((0.0, deadline_s)))
                raise ConnectionRefusedError(f"{server} cannot be reached")
            result = self._when_thawed(server, act) if server in self._thawed else act()
            if asyncio.iscoroutine(result):
                with owned_by(server):
                    acting = begin(result)
                async with asyncio.timeout(deadline_s):
                    result = await asyncio.shield(acting)
            self._on_act()
            if latency_s := self.latency_s():
                await sleep(latency_s)
            if self.is_cut(client, server) or self.loses(client):
                raise ConnectionResetError("the answer is lost")
            return result

        return call

    async def _when_thawed(self, server: str, act: Act) -> Any:
        self.felt[f"frozen {server}"] += 1
        await self._thawed[server].wait()
        result = act()
        if asyncio.iscoroutine(result):
            result = await result
        self._on_act()
        return result

    def redis_call(self, client: str, deadline_s: float) -> ServerCall:
        """Return how `client` calls Redis: all errors are Unavailable, as with redis-py."""
        call = self.call_to("redis", client, deadline_s)

        async def call_redis(act: Act) -> Any:
            try:
                return await call(act)
            except (OSError, TimeoutError) as error:
                raise Unavailable(f"Redis: {error}") from error

        return call_redis
