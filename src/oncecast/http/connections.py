"""The open connections of a server: how many there may be, and which one goes where there is no room for another."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from oncecast.core.clock import Clock
from oncecast.core.telemetry import ConnectionRefused, Emit
from oncecast.http.problems import Problem

DESCRIPTORS_RESERVED = 64
"""File descriptors that no connection takes: for the journal, PostgreSQL, Redis and producers."""
HEADERS_MAX = 100
"""A hand-shake with more than 128 is nothing that `websockets` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one client may take of a server before any token is looked at; see the table of settings."""

    head_max_bytes: int = 16 * 1024
    head_timeout_s: float = 10.0
    connections_max: int = 1_000
    connections_per_address: int = 500
    rest_of_body_s: float = 5.0
    """How long a client may go on sending the body of a request that is answered already."""
    idle_frames_burst: float = 2_000.0
    """WebSocket frames that bring nothing (pings, pongs, empty frames, small fragments) at a time."""


class Idle(Protocol):
    """A connection that may be closed without a loss: no request is under way on it."""

    def make_room(self) -> None:
        """Close at once, without an answer."""


class Connections:
    """Admits connections, and closes the oldest idle one where there is no room for another.

    One that has never sent a whole request head goes before one that waits for its next request. One with a request
    under way, and a WebSocket, stays. Where all are such, the new connection is refused.
    """

    def __init__(self, limits: HttpLimits, clock: Clock, emit: Emit) -> None:
        self.limits = limits
        self.clock = clock
        self._emit = emit
        self._max = _connections_max(limits.connections_max)
        self._max_per_address = min(limits.connections_per_address, max(1, self._max * 3 // 4))
        self._addresses: dict[object, str] = {}
        self._counts: Counter[str] = Counter()
        self._new: dict[Idle, None] = {}
        self._kept: dict[Idle, None] = {}

    def admit(self, connection: Idle, address: str) -> Problem | None:
        """Take in a new connection, or return why not."""
        problem = self._find_room(address)
        if problem is not None:
            return problem
        self.join(connection, address)
        self._new[connection] = None
        return None

    def join(self, connection: object, address: str) -> None:
        """Count a connection that was admitted before, as a WebSocket is when its hand-shake was a request."""
        self._addresses[connection] = address
        self._counts[address] += 1

    def leave(self, connection: object) -> None:
        """Forget a connection. A second time does nothing."""
        address = self._addresses.pop(connection, None)
        if address is None:
            return
        self._new.pop(connection, None)  # type: ignore[call-overload]
        self._kept.pop(connection, None)  # type: ignore[call-overload]
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    def begin_request(self, connection: Idle) -> None:
        """A request's head is complete: the connection is not closed for others' sake."""
        if self._kept.pop(connection, connection) is connection:
            self._new.pop(connection, None)

    def end_request(self, connection: Idle) -> None:
        """The request is answered."""
        if connection in self._addresses:
            self._kept[connection] = None

    def refused(self, problem: Problem) -> None:
        """Say what a connection was refused for."""
        self._emit(ConnectionRefused(problem.status, problem.detail))

    def _find_room(self, address: str) -> Problem | None:
        if self._counts[address] >= self._max_per_address and not self._close_idle(address):
            what = f"{self._max_per_address} connections of one address are open (CONNECTIONS_PER_ADDRESS)"
            return Problem(429, what, headers={"Retry-After": "1"})
        if len(self._addresses) >= self._max and not self._close_idle():
            what = f"{self._max} connections are open (CONNECTIONS_MAX, or what 'ulimit -n' leaves)"
            return Problem(503, what, headers={"Retry-After": "1"})
        return None

    def _close_idle(self, address: str | None = None) -> bool:
        """Close the oldest idle connection, of `address` if given; return whether there was one."""
        for idle in (self._new, self._kept):
            for connection in idle:
                if address is None or self._addresses[connection] == address:
                    self.leave(connection)
                    connection.make_room()
                    self._emit(ConnectionRefused(408, "closed while idle: others needed the room"))
                    return True
        return False


def _connections_max(wanted: int) -> int:
    """As many as the limit of open files leaves; half of it where it is very low."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(descriptors - DESCRIPTORS_RESERVED, descriptors // 2))
