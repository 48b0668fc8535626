"""An HTTP connection whose client can take only so much before its request is read, and whose requests take turns.

uvicorn bounds neither a request's head nor the time that it takes, nor how many requests wait in a pipeline.
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
    """Stops the parser: `problem` of the connection says why."""


class HttpConnection(HttpToolsProtocol):
    """See HttpToolsProtocol."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._connections = connections
        self._limits = connections.limits
        self._unread_bytes = 0
        """Received since a request's head or a piece of its body was complete."""
        self._awaits_head = True
        self._has_begun = False
        """Whether a part of a head is there."""
        self._is_refused = False
        self._problem: Problem | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take part if there is room."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        problem = self._connections.admit(self, self.client[0] if self.client else "")
        if problem is None:
            self._set_timer(self._limits.head_timeout_s)
        else:
            self._refuse(problem)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the room back."""
        self._connections.leave(self)
        self._stop_timer()
        super().connection_lost(exc)

    def make_room(self) -> None:
        """See Idle."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the client was refused."""
        if self._is_refused:
            return
        self._unread_bytes += len(data)
        super().data_received(data)
        self._check_unread()

    def _check_unread(self) -> None:
        """Bound what is there of a head that is not complete, and how long it may stay so."""
        if self._is_refused:
            return
        if self._unread_bytes > self._limits.head_max_bytes:
            self._refuse(self._too_large())
        elif self._timer is None and (self._has_begun or (self._awaits_head and self._unread_bytes)):
            self._set_timer(self._limits.head_timeout_s)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._has_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin with a request whose head is as it should be."""
        self._problem = self._judge_head()
        if self._problem is not None:
            raise _RefusedError
        self._unread_bytes = 0
        self._awaits_head = self._has_begun = False
        self._stop_timer()
        self._connections.begin_request(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete, and another may follow."""
        self._unread_bytes = 0
        self._awaits_head = True
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Answer the next request, or wait for one; the rest of a body that nobody reads has a deadline."""
        super().on_response_complete()
        if not self.pipeline:
            self._connections.end_request(self)
        if not self._awaits_head:
            self._set_timer(self._limits.rest_of_body_s)

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to a WebSocket."""
        self._connections.leave(self)
        self._stop_timer()
        self._unread_bytes, self._has_begun = 0, False
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read, or what we stopped it for."""
        self._refuse(self._problem or Problem(400, "the request is not valid HTTP/1.1"))

    def _judge_head(self) -> Problem | None:
        size_bytes = self._unread_bytes  # nearly always little: then nothing needs to be added up
        if size_bytes > self._limits.head_max_bytes:
            size_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size_bytes > self._limits.head_max_bytes:
            return self._too_large()
        if len(self.headers) > HEADERS_MAX:
            return Problem(431, f"a request may have at most {HEADERS_MAX} headers")
        if self.parser.should_upgrade() and self._should_upgrade():
            return self._judge_handshake()
        return None

    def _judge_handshake(self) -> Problem | None:
        if self.parser.get_method() != b"GET":
            return Problem(405, "a WebSocket's hand-shake is a GET", headers={"Allow": "GET"})
        if max((len(self.url), *(len(name) + len(value) for name, value in self.headers))) > HANDSHAKE_LINE_MAX_BYTES:
            return Problem(431, f"a line of a hand-shake may have at most {HANDSHAKE_LINE_MAX_BYTES} bytes")
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
                return Problem(413, "a WebSocket's hand-shake has no body")
        return None

    def _too_large(self) -> Problem:
        if self._awaits_head:
            limit = self._limits.head_max_bytes
            return Problem(431, f"the head of a request may have at most {limit} bytes (REQUEST_HEAD_MAX_BYTES)")
        return Problem(400, "chunk extensions or trailers without end")

    def _refuse(self, problem: Problem) -> None:
        """Answer, unless another answer is under way, and close when the client may have read that."""
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
        self._timer = self.loop.call_later(seconds, self._be_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _be_late(self) -> None:
        self._timer = None
        if self._is_refused or not self._awaits_head or not (self._has_begun or self._unread_bytes):
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete:
            within = f"{self._limits.head_timeout_s:g} s (REQUEST_HEAD_TIMEOUT)"
            self._refuse(Problem(408, f"the head of the request did not come within {within}"))
        else:
            self._set_timer(self._limits.head_timeout_s)  # a request before it is still being answered


class _Flow(FlowControl):
    """Reads nothing while requests wait in the pipeline: each of them is already complete."""

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, if nothing waits."""
        if not self._pipeline:
            super().resume_reading()


def raw_response(problem: Problem) -> bytes:
    """A problem as the bytes of a whole response, behind which the connection is closed."""
    body = problem.body()
    headers = {"Content-Type": PROBLEM_TYPE, "Content-Length": len(body), "Connection": "close", **problem.headers}
    lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
