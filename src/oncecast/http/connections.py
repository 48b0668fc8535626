"""The open connections of a server: their limits, and which idle one is closed for a new one."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from oncecast.core.clock import Clock
from oncecast.core.telemetry import ConnectionRefused, Record
from oncecast.http.problems import Problem

DESCRIPTORS_RESERVED = 64
"""File descriptors reserved for the journal, PostgreSQL, Redis and producers."""
HEADERS_MAX = 100
"""`websockets` does not read handshakes with more than 128 headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The resources that one client may use before its token is checked; see the table of settings."""

    head_max_bytes: int = 16 * 1024
    head_timeout_s: float = 10.0
    connections_max: int = 1_000
    connections_per_address: int = 500
    rest_of_body_s: float = 5.0
    """How long a client may continue to send the body of an answered request."""
    idle_frames_burst: float = 2_000.0
    """WebSocket frames without content (pings, pongs, empty frames, small fragments) in a burst."""


class Idle(Protocol):
    """A connection without a request in progress, which may be closed."""

    def make_room(self) -> None:
        """Close at once, without an answer."""


class Connections:
    """Admits connections, and closes the oldest idle one if there is no room for another.

    A connection that has never sent a whole request head is closed before one that waits for its next request.
    WebSockets, and connections with a request in progress, stay. If there are no others, the new one is refused.
    """

    def __init__(self, limits: HttpLimits, clock: Clock, record: Record) -> None:
        self.limits = limits
        self.clock = clock
        self._record = record
        self._max = _connections_max(limits.connections_max)
        self._max_per_address = min(limits.connections_per_address, max(1, self._max * 3 // 4))
        self._addresses: dict[object, str] = {}
        self._counts: Counter[str] = Counter()
        self._new: dict[Idle, None] = {}
        self._kept: dict[Idle, None] = {}

    def admit(self, connection: Idle, address: str) -> Problem | None:
        """Admit a new connection, or return why not."""
        problem = self._find_room(address)
        if problem is not None:
            return problem
        self.join(connection, address)
        self._new[connection] = None
        return None

    def join(self, connection: object, address: str) -> None:
        """Count a connection that was admitted before, such as a WebSocket, admitted with its handshake."""
        self._addresses[connection] = address
        self._counts[address] += 1

    def leave(self, connection: object) -> None:
        """Stop counting a connection. Safe to call twice."""
        address = self._addresses.pop(connection, None)
        if address is None:
            return
        self._new.pop(connection, None)  # type: ignore[call-overload]
        self._kept.pop(connection, None)  # type: ignore[call-overload]
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    def begin_request(self, connection: Idle) -> None:
        """Mark a connection as busy, after a complete head: it is not closed for others."""
        if self._kept.pop(connection, connection) is connection:
            self._new.pop(connection, None)

    def end_request(self, connection: Idle) -> None:
        """Mark a connection as idle, after an answer."""
        if connection in self._addresses:
            self._kept[connection] = None

    def refused(self, problem: Problem) -> None:
        """Record why a connection was refused."""
        self._record(ConnectionRefused(problem.status, problem.detail))

    def _find_room(self, address: str) -> Problem | None:
        if self._counts[address] >= self._max_per_address and not self._close_idle(address):
            what = f"{self._max_per_address} connections of one address are open (CONNECTIONS_PER_ADDRESS)"
            return Problem(429, what, headers={"Retry-After": "1"})
        if len(self._addresses) >= self._max and not self._close_idle():
            what = f"{self._max} connections are open (CONNECTIONS_MAX, or the limit of 'ulimit -n')"
            return Problem(503, what, headers={"Retry-After": "1"})
        return None

    def _close_idle(self, address: str | None = None) -> bool:
        """Close the oldest idle connection, of `address` if given; return whether there was one."""
        for idle in (self._new, self._kept):
            for connection in idle:
                if address is None or self._addresses[connection] == address:
                    self.leave(connection)
                    connection.make_room()
                    self._record(ConnectionRefused(408, "closed while idle to make room for another connection"))
                    return True
        return False


def _connections_max(wanted: int) -> int:
    """Return the limit of connections that the open-files limit allows; half of that if it is very low."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(descriptors - DESCRIPTORS_RESERVED, descriptors // 2))
