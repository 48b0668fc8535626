"""An HTTP connection that bounds unread requests and answers pipelined requests one by one.

uvicorn bounds neither the size and time of a request's head nor the number of pipelined requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from oncecast.http.connections import HEADERS_MAX, Connections
from oncecast.http.problems import PROBLEM_TYPE, Problem

LINGER_S = 1.0
"""How long the server reads and drops the input of a refused client: a reset would discard its answer."""
HANDSHAKE_LINE_MAX_BYTES = 8_000
"""`websockets` reads lines of up to 8,192 bytes."""


class _RefusedError(Exception):
    """Stops the parser; the connection's `_problem` has the reason."""


class HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits on connections, heads and pipelines."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._connections = connections
        self._limits = connections.limits
        self._unread_bytes = 0
        """The bytes received since the last complete head or piece of a body."""
        self._awaits_head = True
        self._has_begun = False
        """Whether a part of a head has arrived."""
        self._is_refused = False
        self._problem: Problem | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or refuse it."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        problem = self._connections.admit(self, self.client[0] if self.client else "")
        if problem is None:
            self._set_timer(self._limits.head_timeout_s)
        else:
            self._refuse(problem)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the count of connections."""
        self._connections.leave(self)
        self._stop_timer()
        super().connection_lost(exc)

    def make_room(self) -> None:
        """Close at once, for another connection."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse data, unless the client was refused."""
        if self._is_refused:
            return
        self._unread_bytes += len(data)
        super().data_received(data)
        self._check_unread()

    def _check_unread(self) -> None:
        """Bound the size and the time of an incomplete head."""
        if self._is_refused:
            return
        if self._unread_bytes > self._limits.head_max_bytes:
            self._refuse(self._too_large())
        elif self._timer is None and (self._has_begun or (self._awaits_head and self._unread_bytes)):
            self._set_timer(self._limits.head_timeout_s)

    def on_message_begin(self) -> None:
        """Record that a head begins."""
        self._has_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin a request if its head is acceptable."""
        self._problem = self._check_head()
        if self._problem is not None:
            raise _RefusedError
        self._unread_bytes = 0
        self._awaits_head = self._has_begun = False
        self._stop_timer()
        self._connections.begin_request(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Accept a piece of a body."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the next request."""
        self._unread_bytes = 0
        self._awaits_head = True
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Answer the next request, or wait for one; an unread rest of a body has a deadline."""
        super().on_response_complete()
        if not self.pipeline:
            self._connections.end_request(self)
        if not self._awaits_head:
            self._set_timer(self._limits.rest_of_body_s)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to a WebSocket."""
        self._connections.leave(self)
        self._stop_timer()
        self._unread_bytes, self._has_begun = 0, False
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse an unreadable request, or the one that stopped the parser."""
        self._refuse(self._problem or Problem(400, "the request is not valid HTTP/1.1"))

    def _check_head(self) -> Problem | None:
        size_bytes = self._unread_bytes  # usually small: then the exact size does not matter
        if size_bytes > self._limits.head_max_bytes:
            size_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size_bytes > self._limits.head_max_bytes:
            return self._too_large()
        if len(self.headers) > HEADERS_MAX:
            return Problem(431, f"a request may have at most {HEADERS_MAX} headers")
        if self.parser.should_upgrade() and self._should_upgrade():
            return self._check_handshake()
        return None

    def _check_handshake(self) -> Problem | None:
        if self.parser.get_method() != b"GET":
            return Problem(405, "a WebSocket handshake must be a GET", headers={"Allow": "GET"})
        if max((len(self.url), *(len(name) + len(value) for name, value in self.headers))) > HANDSHAKE_LINE_MAX_BYTES:
            return Problem(431, f"a line of a handshake may have at most {HANDSHAKE_LINE_MAX_BYTES} bytes")
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
                return Problem(413, "a WebSocket handshake must not have a body")
        return None

    def _too_large(self) -> Problem:
        if self._awaits_head:
            limit = self._limits.head_max_bytes
            return Problem(431, f"the head of a request may have at most {limit} bytes (REQUEST_HEAD_MAX_BYTES)")
        return Problem(400, "the chunk extensions or trailers are too large")

    def _refuse(self, problem: Problem) -> None:
        """Answer, unless another answer is in progress, and close once the client could read it."""
        self._is_refused = True
        self._connections.refused(problem)
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(raw_response(problem))
            self._set_timer(LINGER_S)
        else:
            self.transport.close()

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self._is_refused or not self._awaits_head or not (self._has_begun or self._unread_bytes):
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete:
            within = f"{self._limits.head_timeout_s:g} s (REQUEST_HEAD_TIMEOUT)"
            self._refuse(Problem(408, f"the head of the request did not arrive within {within}"))
        else:
            self._set_timer(self._limits.head_timeout_s)  # an earlier request is still being answered


class _Flow(FlowControl):
    """Pauses reading while complete requests wait in the pipeline."""

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Resume reading unless requests wait."""
        if not self._pipeline:
            super().resume_reading()


def raw_response(problem: Problem) -> bytes:
    """Return a problem as the bytes of a whole response that closes the connection."""
    body = problem.body()
    headers = {"Content-Type": PROBLEM_TYPE, "Content-Length": len(body), "Connection": "close", **problem.headers}
    lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
