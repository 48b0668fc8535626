"""A WebSocket that bounds each client's share of the event loop.

uvicorn parses all received frames at once: a flood of small frames would block all other clients.
"""

from __future__ import annotations

from asyncio import BaseTransport
from collections.abc import Callable
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode

from oncecast.http.connection import LINGER_S, raw_response
from oncecast.http.connections import Connections
from oncecast.http.problems import Problem

PIECE_BYTES = 4 * 1024
"""The input that is parsed at a time: a few hundred of the smallest frames."""
TURN_S = 0.005
"""How long one client's frames are parsed before other clients have a turn."""
IDLE_FRAME_BYTES = 64
IDLE_FRAMES_PER_S = 100.0
"""The average rate; see HttpLimits for the burst."""


_WRITER = "oncecast.frame_writer"


def encoded_frame(text: bytes) -> bytes:
    """Return a text as a frame, the same for every client."""
    return Frame(Opcode.TEXT, text).serialize(mask=False)


def frame_writer(scope: Scope) -> Callable[[bytes], bool] | None:
    """Return the function that writes encoded frames to a client at once, as `Socket.write_frames` does.

    None if another server than ours serves the client.
    """
    offered: Callable[[bytes], bool] | None = scope.get("extensions", {}).get(_WRITER, {}).get("write")
    return offered


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which parses input in turns and limits frames without content."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._connections = connections
        self._unread = bytearray()
        self._is_reading = False
        """Whether the next turn is scheduled."""
        self._is_refused = False
        self._monotonic_s = connections.clock.monotonic_s
        self._burst = self._allowance = connections.limits.idle_frames_burst
        self._counted_at_s = self._monotonic_s()

    def handle_connect(self, event: Any) -> None:
        """Offer the application `frame_writer`."""
        super().handle_connect(event)
        if hasattr(self, "scope"):  # the handshake is valid
            self.scope["extensions"][_WRITER] = {"write": self.write_frames}

    def write_frames(self, frames: bytes) -> bool:
        """Write encoded frames unless the client is behind or has left; return whether they are written."""
        if not (self.handshake_complete and self.writable.is_set()) or self.close_sent or self.disconnected:
            return False
        self.transport.write(frames)
        return True

    def connection_made(self, transport: BaseTransport) -> None:
        """Replace the HTTP connection."""
        super().connection_made(transport)
        self._connections.join(self, self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the count of connections."""
        self._connections.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a small input at once, a larger one piece by piece."""
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
            problem = Problem(400, f"invalid handshake: {self.conn.handshake_exc}")
            self._connections.refused(problem)
            self.transport.write(raw_response(problem))
            self.transport.close()

    def _read_on(self) -> None:
        """Parse pieces for one turn, or until the application has a message to receive."""
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
        """Return the next message to the application; when none are left, continue with unread input."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if self._unread:
                self._read_soon()
            else:
                self.transport.resume_reading()
        return message

    def send_receive_event_to_app(self) -> None:
        """Pass a whole message to the application; invalid UTF-8 closes the connection without a traceback."""
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
        """Answer a ping."""
        self._count()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Accept a pong."""
        self._count()
        super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """Accept the next part of a message."""
        if len(event.data) < IDLE_FRAME_BYTES:
            self._count()
        super().handle_cont(event)

    def handle_text(self, event: Frame) -> None:
        """Accept a text, or its first part."""
        self._count_if_idle(event)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Accept bytes, or their first part."""
        self._count_if_idle(event)
        super().handle_bytes(event)

    def _count_if_idle(self, event: Frame) -> None:
        if not event.data or (not event.fin and len(event.data) < IDLE_FRAME_BYTES):
            self._count()

    def _count(self) -> None:
        """Count a frame without content."""
        now_s = self._monotonic_s()
        allowance = self._allowance + (now_s - self._counted_at_s) * IDLE_FRAMES_PER_S - 1
        self._allowance, self._counted_at_s = min(self._burst, allowance), now_s
        if allowance < 0 and not self._is_refused:
            self._refuse(f"more than {IDLE_FRAMES_PER_S:g} pings, pongs, empty frames or small fragments a second")

    def _refuse(self, reason: str, *, code: int = 1008, status: int = 429) -> None:
        """Close with a reason, and drop further input until the client could read it."""
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
