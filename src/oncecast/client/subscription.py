"""Follow a producer's broadcast from a chosen place; reconnect after each failure, and resume at the last event.

Uses `oncecast.v1`, whose frames carry offsets, as a reader without a group: the producer keeps no events for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidProxy, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from oncecast.client.address import authorization, broadcast_url, shown
from oncecast.client.connecting import websocket_proxy, why_not_connected
from oncecast.client.errors import ProducerRefused
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.clock import Clock
from oncecast.core.event import Cursor
from oncecast.core.retry import Backoff
from oncecast.core.wire import (
    FRAME_LIMIT_BYTES,
    SUBPROTOCOL,
    VERSION,
    Credit,
    Epoch,
    Events,
    Gap,
    Resume,
    ServerFrame,
    Welcome,
    decode_server_frame,
    encode,
    epoch_of,
    resume_after,
)
from oncecast.event import Event

DEADLINE_S = 10.0
"""The deadline of the handshake, of each write, and of a pong."""
PING_INTERVAL_S = 5.0
RECONNECT = Backoff(base_s=0.5, max_s=15.0)
CREDIT_BYTES = 4 * 1024 * 1024

OnDisconnect = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class BroadcastEvent:
    """A broadcast event: its cursor, when it was written to the journal (Unix time in µs), and its JSON."""

    cursor: Cursor
    at_us: int
    raw: bytes

    @property
    def event(self) -> Event:
        """Return the decoded event."""
        return Event.from_json(self.raw)


class Tail:
    """An endless `async for` over the broadcast of the producer at `url`.

    It begins after the cursor `after`, or at the earliest event kept, or with the next event. After a broken
    connection it calls `on_disconnect(reason, delay_s)` and reconnects. Events may come again if the producer's
    journal was restored from a backup. Raises ProducerRefused when a retry cannot help.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        token: str | None = None,
        after: Cursor | None = None,
        earliest: bool = False,
        on_disconnect: OnDisconnect | None = None,
        reconnect: Backoff = RECONNECT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._url = broadcast_url(url)
        self._shown = shown(url)
        self._proxy = websocket_proxy(url)
        self._headers = authorization(token)
        self._on_disconnect = on_disconnect
        self._backoff = reconnect
        self._clock = clock
        self._after = Cursor("", 0) if earliest else after
        self._epochs: Sequence[Epoch] = [Epoch(after.epoch, 1)] if after else []

    async def __aiter__(self) -> AsyncGenerator[BroadcastEvent, None]:
        attempt = 1
        while True:
            began_s = self._clock.monotonic_s()
            try:
                async with self._connect() as connection:
                    await self._resume(connection)
                    async for received in self._read(connection):
                        attempt = 1
                        yield received
            except InvalidStatus as error:
                status = error.response.status_code
                reason = self._why(error)
                if 400 <= status < 500 and status not in (408, 429):
                    raise ProducerRefused(f"{self._shown} refuses: {reason}") from None
            except TimeoutError:
                reason = "no answer"
            except (ImportError, InvalidProxy, ValueError) as error:
                raise ProducerRefused(f"{self._shown}: {self._why(error)}") from None
            except (OSError, WebSocketException, EOFError) as error:
                reason = self._why(error)
            # The delay grows until a connection has received an event or has lasted.
            has_lasted = self._clock.monotonic_s() - began_s >= 2 * self._backoff.max_s
            attempt = 2 if has_lasted else attempt + 1
            delay_s = self._backoff.delay_s(attempt, self._clock.random())
            if self._on_disconnect is not None:
                self._on_disconnect(f"{self._shown}: {reason}", delay_s)
            await self._clock.sleep(delay_s)

    def _why(self, error: Exception) -> str:
        return why_not_connected(error, self._url, self._proxy, "SUBSCRIBE_TOKEN")

    def _connect(self) -> connect:
        return connect(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=self._headers,
            proxy=self._proxy.url if self._proxy else None,
            compression=None,
            open_timeout=DEADLINE_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=DEADLINE_S,
            close_timeout=1.0,
            max_size=FRAME_LIMIT_BYTES,
            max_queue=4,
        )

    async def _resume(self, connection: ClientConnection) -> None:
        if connection.subprotocol != SUBPROTOCOL:
            raise ProducerRefused(f"{self._shown} does not speak {SUBPROTOCOL}: is it a producer?")
        async with asyncio.timeout(DEADLINE_S):
            welcome = self._decode(await connection.recv(decode=False))
        if not isinstance(welcome, Welcome) or welcome.version != VERSION or not welcome.epochs:
            raise ProducerRefused(f"{self._shown} sent no welcome of version {VERSION}")
        start = self._after
        offset = welcome.last if start is None else resume_after(start, self._epochs, welcome.epochs)
        self._epochs = welcome.epochs
        self._after = self._cursor(offset)
        after = str(self._after) if offset else None
        resume = Resume(instance="tail", group="", after=after, credit=CREDIT_BYTES)
        async with asyncio.timeout(DEADLINE_S):
            await connection.send(encode(resume), text=True)

    async def _read(self, connection: ClientConnection) -> AsyncIterator[BroadcastEvent]:
        """Yield events in order until the connection ends; return the credit of each consumed frame."""
        while True:
            text = await connection.recv(decode=False)
            frame = self._decode(text)
            if isinstance(frame, Gap):
                self._after = self._cursor(frame.last)
                frame = Events(offset=frame.first, at=0, events=[])
            if not isinstance(frame, Events):
                raise ProducerRefused(f"{self._shown} sent a {type(frame).__name__} instead of events")
            for offset, raw in enumerate(frame.events, frame.offset):
                if self._after is None or offset > self._after.offset:
                    self._after = self._cursor(offset)
                    yield BroadcastEvent(self._after, frame.at, bytes(raw))
            async with asyncio.timeout(DEADLINE_S):
                await connection.send(encode(Credit(len(text))), text=True)

    def _cursor(self, offset: int) -> Cursor:
        return Cursor(epoch_of(self._epochs, offset), offset)

    def _decode(self, text: bytes) -> ServerFrame:
        try:
            frame: ServerFrame = decode_server_frame(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProducerRefused(f"{self._shown} sent an invalid frame: {error}") from None
        return frame
