"""A WebSocket whose client gets only so much of the event loop at a time.

uvicorn reads all frames of what was received at once: a flood of small ones would keep everybody waiting.
"""

from __future__ import annotations

from asyncio import BaseTransport
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from oncecast.http.connection import LINGER_S, raw_response
from oncecast.http.connections import Connections
from oncecast.http.problems import Problem

PIECE_BYTES = 4 * 1024
"""Of what was received: some hundred of the smallest frames."""
TURN_S = 0.005
"""How long the frames of one client are read before others have their turn."""
IDLE_FRAME_BYTES = 64
IDLE_FRAMES_PER_S = 100.0
"""In the long run; see HttpLimits for how many at a time."""


class Socket(WebSocketsSansIOProtocol):
    """See WebSocketsSansIOProtocol."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._connections = connections
        self._unread = bytearray()
        self._is_reading = False
        """Whether the next turn is asked for."""
        self._is_refused = False
        self._monotonic_s = connections.clock.monotonic_s
        self._burst = self._allowance = connections.limits.idle_frames_burst
        self._counted_at_s = self._monotonic_s()

    def connection_made(self, transport: BaseTransport) -> None:
        """Take the place of the HTTP connection."""
        super().connection_made(transport)
        self._connections.join(self, self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the room back."""
        self._connections.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a little at once; more of it piece by piece."""
        if self._is_refused:
            return
        if len(data) <= PIECE_BYTES and not self._unread:
            self._read(data)
            return
        self._unread += data
        if not self._is_reading:
            self._read_on()

    def _read(self, piece: bytes) -> None:
        super().data_received(piece)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            problem = Problem(400, f"the hand-shake cannot be read: {self.conn.handshake_exc}")
            self._connections.refused(problem)
            self.transport.write(raw_response(problem))
            self.transport.close()

    def _read_on(self) -> None:
        """Read pieces for one turn, or until the application has a message to take."""
        self._is_reading = False
        until_s = self._monotonic_s() + TURN_S
        while self._unread and not self._is_full() and self._monotonic_s() < until_s:
            piece = bytes(self._unread[:PIECE_BYTES])
            del self._unread[:PIECE_BYTES]
            self._read(piece)
            if self.transport.is_closing():
                self._unread.clear()
        if self.transport.is_closing():
            return
        if not self._unread:
            if not self._is_full():
                self.transport.resume_reading()
        else:
            self.transport.pause_reading()
            if not self._is_full():
                self._read_soon()

    def _is_full(self) -> bool:
        return self.read_paused and not self.close_sent

    def _read_soon(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self.loop.call_soon(self._read_on)

    async def receive(self) -> Any:
        """Give the application the next message; when it has them all, go on with what is not read yet."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if self._unread:
                self._read_soon()
            else:
                self.transport.resume_reading()
        return message

    def send_receive_event_to_app(self) -> None:
        """Give the application a whole message; one that is no UTF-8 ends the connection, without a traceback."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            text = b"".join(self.frames)
            self.frames = [text]
            try:
                text.decode()
            except UnicodeDecodeError as error:
                self._refuse(f"a text frame is not UTF-8: {error.reason}", code=1007, status=400)
                return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answer it."""
        self._count()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Take the answer to a ping."""
        self._count()
        super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """Take a message's next part."""
        if len(event.data) < IDLE_FRAME_BYTES:
            self._count()
        super().handle_cont(event)

    def handle_text(self, event: Frame) -> None:
        """Take a text, or its first part."""
        self._count_if_idle(event)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Take bytes, or their first part."""
        self._count_if_idle(event)
        super().handle_bytes(event)

    def _count_if_idle(self, event: Frame) -> None:
        if not event.data or (not event.fin and len(event.data) < IDLE_FRAME_BYTES):
            self._count()

    def _count(self) -> None:
        """One more frame that brings nothing."""
        now_s = self._monotonic_s()
        allowance = self._allowance + (now_s - self._counted_at_s) * IDLE_FRAMES_PER_S - 1
        self._allowance, self._counted_at_s = min(self._burst, allowance), now_s
        if allowance < 0 and not self._is_refused:
            self._refuse(f"more than {IDLE_FRAMES_PER_S:g} pings, pongs, empty frames or small fragments a second")

    def _refuse(self, reason: str, *, code: int = 1008, status: int = 429) -> None:
        """Close, and drop what still comes until the client may have read why."""
        self._is_refused = True
        self._connections.refused(Problem(status, f"WebSocket closed with {code}: {reason}"))
        self._unread.clear()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.handshake_complete and not self.close_sent and not self.transport.is_closing():
            self.conn.fail(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
        self.stop_keepalive()
        self.close_sent = self.disconnected = True
        self.writable.set()
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)
