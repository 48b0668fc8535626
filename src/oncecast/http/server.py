"""Serve an ASGI application: bind the port, then run uvicorn until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from oncecast import forks
from oncecast.core.clock import Clock
from oncecast.core.errors import OncecastError, StartError
from oncecast.core.telemetry import Record, TelemetryEvent
from oncecast.http.connection import HttpConnection
from oncecast.http.connections import Connections, HttpLimits
from oncecast.http.websocket import Socket
from oncecast.tasks import cancel_all

GRACEFUL_SHUTDOWN_S = 3
BACKLOG = 2048
ACCEPTED_PER_TURN = 16
"""asyncio accepts up to its backlog of connections at once; more would exhaust the file descriptors."""
UNREAD_TIMEOUT_MS = 30_000
"""The time after which Linux drops a connection whose peer acknowledges nothing, even a closed one."""


def bind(host: str, port: int, *, unread_timeout_ms: int = UNREAD_TIMEOUT_MS) -> socket.socket:
    """Return a listening socket; raises StartError with the port and the setting that changes it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)  # with an explicit protocol, asyncio sets TCP_NODELAY
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(f"cannot listen on {host}: {reason}; check HOST") from None
    forks.silence_in_children(listening)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if user_timeout := getattr(socket, "TCP_USER_TIMEOUT", None):  # connections inherit it
            listening.setsockopt(socket.IPPROTO_TCP, user_timeout, unread_timeout_ms)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise StartError(f"cannot listen on {host} port {port}: {_reason(error)}") from None
    return listening


def _reason(error: OSError) -> str:
    """Return the system's reason, and which setting helps."""
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{error.strerror}; set HOST to an address of this machine"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{error.strerror}; ports below 1024 need a privilege: choose another with --port or PORT"
    return f"{error.strerror}; choose another with --port or PORT"


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)  # the kernel's queue may be longer than one round of accepts


def _ignore(_event: TelemetryEvent) -> None:
    """Ignore the telemetry event."""


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    stop: asyncio.Event,
    clock: Clock,
    *,
    ws_max_bytes: int,
    limits: HttpLimits | None = None,
    record: Record = _ignore,
) -> None:
    """Serve `app` until `stop` is set, then give requests in progress a few seconds to finish.

    `limits` bound the resources of clients; `record` gets a telemetry event for each refused connection.
    """
    connections = Connections(limits or HttpLimits(), clock, record)

    async def until_stopped(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not stop.is_set():
                raise  # after `stop`, the few seconds are over, which is not an error

    config = uvicorn.Config(
        until_stopped,
        http=partial(HttpConnection, connections),  # type: ignore[arg-type]
        ws=partial(Socket, connections),  # type: ignore[arg-type]
        ws_max_size=ws_max_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=10.0,
        ws_ping_timeout=10.0,
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=65,
        backlog=ACCEPTED_PER_TURN,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
    )
    server = _Server(config)

    async def watch() -> None:
        await stop.wait()
        server.should_exit = True

    watcher = asyncio.create_task(watch())
    try:
        await server.serve(sockets=[listening])
    finally:
        await cancel_all([watcher])
    if not stop.is_set():
        raise OncecastError("the HTTP server ended unexpectedly")
