"""Simulated connections between feeds and producers: frames are delayed, and links break silently."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from oncecast.core.wire import SUBPROTOCOL

Latency = Callable[[], float]


class _Way:
    """One direction: frames arrive in order, each after its own delay; a broken one ends with an error."""

    def __init__(self, latency: Latency) -> None:
        self._latency = latency
        self._arrived: deque[str] = deque()
        self._more = asyncio.Event()
        self._last_s = 0.0
        self.broken = False

    def put(self, text: str) -> None:
        loop = asyncio.get_running_loop()
        self._last_s = max(self._last_s, loop.time() + self._latency())
        loop.call_at(self._last_s, self._arrive, text)

    def _arrive(self, text: str) -> None:
        if not self.broken:
            self._arrived.append(text)
            self._more.set()

    def end(self) -> None:
        self.broken = True
        self._more.set()

    async def get(self) -> str | None:
        """Return the next frame; None once the direction is broken."""
        while not self._arrived:
            if self.broken:
                return None
            self._more.clear()
            await self._more.wait()
        return self._arrived.popleft()


class Wire:
    """A connection from a listener to a producer; the listener's side is a FeedConnection."""

    def __init__(self, listener: str, producer: str, latency: Latency) -> None:
        self.listener = listener
        self.producer = producer
        self._up = _Way(latency)
        self._down = _Way(latency)
        self._opened = False
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "subprotocols": [SUBPROTOCOL],
        }

    def end_up(self) -> None:
        """Notify the producer that the connection is lost."""
        self._up.end()

    def end_down(self) -> None:
        """Notify the listener that the connection is lost."""
        self._down.end()

    async def recv(self) -> bytes:
        """Wait for the next frame from the producer."""
        text = await self._down.get()
        if text is None:
            raise ConnectionResetError("the connection is gone")
        return text.encode()

    async def send(self, text: str) -> None:
        """Send a frame to the producer."""
        if self._down.broken:
            raise ConnectionResetError("the connection is gone")
        self._up.put(text)

    async def asgi_receive(self) -> dict[str, Any]:
        """Return the next ASGI message for the producer's application."""
        if not self._opened:
            self._opened = True
            return {"type": "websocket.connect"}
        text = await self._up.get()
        return (
            {"type": "websocket.disconnect", "code": 1006}
            if text is None
            else {"type": "websocket.receive", "text": text}
        )

    async def asgi_send(self, message: Any) -> None:
        """Handle an ASGI message of the producer's application."""
        if message["type"] == "websocket.send":
            if self._up.broken:
                raise OSError("the connection is gone")
            self._down.put(message["text"])
        elif message["type"] == "websocket.close":
            self._down.end()
            self._up.end()
