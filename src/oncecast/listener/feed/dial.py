"""How a feed connects to its producer: a WebSocket with deadlines, or a substitute in simulation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from oncecast.client.address import authorization, broadcast_url, shown
from oncecast.client.connecting import websocket_proxy, why_not_connected
from oncecast.core.wire import FRAME_LIMIT_BYTES, SUBPROTOCOL

CONNECT_DEADLINE_S = 10.0
PING_INTERVAL_S = 5.0
PING_DEADLINE_S = 10.0
QUEUE_MAX_FRAMES = 1
"""Frames that wait besides the one being read: credit does not count them yet."""


class Lost(ConnectionError):
    """The connection failed or was lost; the text says why."""


class FeedConnection(Protocol):
    """A connection that carries frames both ways, in order. Raises OSError or TimeoutError once it is lost."""

    async def recv(self) -> bytes:
        """Wait for the next frame and return it undecoded."""

    async def send(self, text: str) -> None:
        """Send a frame."""


Dial = Callable[[str], AbstractAsyncContextManager[FeedConnection]]
"""Opens a connection with the protocol `oncecast.v1` to the producer at a URL; raises OSError or TimeoutError."""


def websocket_dial(tokens: Mapping[str, str], is_stopping: Callable[[], bool] = lambda: False) -> Dial:
    """Return a Dial that uses WebSockets; `tokens` has the token for the producer at each URL.

    `is_stopping` returns whether a cancelled feed is part of an orderly stop.
    """

    @asynccontextmanager
    async def dial(url: str) -> AsyncIterator[FeedConnection]:
        headers = authorization(tokens.get(url))
        proxy = websocket_proxy(url)
        is_open = False
        try:
            async with connect(
                broadcast_url(url),
                proxy=proxy.url if proxy else None,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                additional_headers=headers,
                compression=None,
                open_timeout=CONNECT_DEADLINE_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PING_DEADLINE_S,
                close_timeout=1.0,
                max_size=FRAME_LIMIT_BYTES,
                max_queue=QUEUE_MAX_FRAMES,
            ) as connection:
                if connection.subprotocol != SUBPROTOCOL:
                    raise Lost(f"{shown(url)} does not speak {SUBPROTOCOL}: is it a producer? check WS_URL")
                is_open = True
                try:
                    yield _WebSocket(connection)
                except asyncio.CancelledError:
                    if is_stopping():  # the code tells the producer so
                        await connection.close()
                    raise
        except Lost:
            raise
        except (WebSocketException, OSError, TimeoutError, ImportError, ValueError) as error:
            if is_open and not isinstance(error, WebSocketException):
                raise
            if is_open:
                raise Lost(f"{type(error).__name__}: {error}") from error
            raise Lost(f"{shown(url)} (WS_URL): {why_not_connected(error, url, proxy, 'LISTENER_TOKEN')}") from error

    return dial


class _WebSocket:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def recv(self) -> bytes:
        return await self._connection.recv(decode=False)

    async def send(self, text: str) -> None:
        await self._connection.send(text)
