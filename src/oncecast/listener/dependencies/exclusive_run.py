"""A lock for attempts: shared by most; exclusive for a quarantined event, so that its crash harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class ExclusiveRun:
    """Attempts run `shared`; an `exclusive` one waits until they have finished, and delays those that follow."""

    def __init__(self) -> None:
        self._running = 0
        self._idle = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._one_at_a_time = asyncio.Lock()

    def shared(self) -> Self:
        """Return a context that runs concurrently with others, once no exclusive run is active or waiting."""
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
        """Run while no other attempt runs."""
        async with self._one_at_a_time:
            self._open.clear()
            try:
                while self._running:
                    self._idle.clear()
                    await self._idle.wait()
                yield
            finally:
                self._open.set()
