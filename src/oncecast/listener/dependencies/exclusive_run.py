"""Many together, or one alone: what a suspect is attempted under, so that nobody else dies with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class ExclusiveRun:
    """Attempts run `together`; one that wants to be `alone` waits for those under way, and holds up the next."""

    def __init__(self) -> None:
        self._running = 0
        self._idle = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._one_at_a_time = asyncio.Lock()

    def shared(self) -> Self:
        """Run beside others, once nobody is, or waits to be, alone."""
        return self

    async def __aenter__(self) -> None:
        while not self._open.is_set():
            await self._open.wait()
        self._running += 1

    async def __aexit__(self, *_: object) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Run with nothing beside."""
        async with self._one_at_a_time:
            self._open.clear()
            try:
                while self._running:
                    self._idle.clear()
                    await self._idle.wait()
                yield
            finally:
                self._open.set()
