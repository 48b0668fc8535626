"""A producer to talk to: a process of its own, or served in this one where a test must shorten its deadlines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.telemetry import TelemetryEvent
from oncecast.embedded.ports import free_port
from oncecast.http.guard import OriginGuard
from oncecast.http.server import UNREAD_TIMEOUT_MS, bind, serve
from oncecast.journal import SqliteJournal
from oncecast.producer.app import Producer, ProducerSettings

READY_WITHIN_S = 60.0


class Address:
    """Where a producer is on this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = f"http://127.0.0.1:{port}"
        self.ws = f"ws://127.0.0.1:{port}"

    def client(self) -> httpx2.AsyncClient:
        """An HTTP client of it."""
        return httpx2.AsyncClient(base_url=self.http, timeout=20)


class ProducerProcess(Address):
    """`oncecast producer` with its journal in `folder`; may be ended and started again."""

    def __init__(self, folder: Path, **environment: str) -> None:
        super().__init__(free_port())
        self.log = folder / "output.log"
        self._folder = folder
        self._environment = {**os.environ, **environment, "PORT": str(self.port), "INSTANCE_ID": "producer"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin it, and wait until it answers."""
        command = (sys.executable, "-m", "oncecast", "producer")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.02)
        assert self._process.poll() is None, self.log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and wait for its end; a second time does nothing."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(READY_WITHIN_S)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.http}/readyz").is_success
        except httpx2.TransportError:
            return False


@contextmanager
def producer_process(folder: Path, **environment: str) -> Iterator[ProducerProcess]:
    """A producer process that runs while the block does; afterwards it has printed no stack trace."""
    producer = ProducerProcess(folder, **environment)
    producer.start()
    try:
        yield producer
    finally:
        producer.end()
    assert "Traceback" not in producer.log.read_text(), producer.log.read_text()[-5_000:]


def ignore(_telemetry: TelemetryEvent) -> None:
    """Ignore a telemetry event."""


@asynccontextmanager
async def producer_here(
    folder: Path, *, unread_timeout_ms: int = UNREAD_TIMEOUT_MS, **settings: Any
) -> AsyncIterator[Address]:
    """A producer that is served by this process, as its own process would."""
    address = Address(free_port())
    journal = await SqliteJournal.open(folder / "journal.db", SYSTEM_CLOCK, record=ignore)
    stop = asyncio.Event()
    try:
        given = ProducerSettings(instance="here", **settings)
        made = Producer(journal, given, SYSTEM_CLOCK, metrics=bytes, record=ignore)
        app = OriginGuard(made.app, bound_host="127.0.0.1")
        with bind("127.0.0.1", address.port, unread_timeout_ms=unread_timeout_ms) as listening:
            async with asyncio.TaskGroup() as group:
                group.create_task(made.run(serve(app, listening, stop, SYSTEM_CLOCK, ws_max_bytes=2**20)))
                try:
                    yield address
                finally:
                    stop.set()
    finally:
        await journal.close()


async def post(client: httpx2.AsyncClient, body: Any, **headers: str) -> httpx2.Response:
    """Publish `body`, as JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.post("/events", content=content, headers={"content-type": "application/json", **headers})


async def last_offset(client: httpx2.AsyncClient) -> int:
    """The newest offset of the journal."""
    last: int = (await client.get("/health")).json()["journal"]["last"]
    return last


async def next_event(connection: ClientConnection) -> dict[str, Any]:
    """The next frame that a plain client receives."""
    async with asyncio.timeout(120):
        event: dict[str, Any] = msgspec.json.decode(await connection.recv())
    return event


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """Wait for the close; its code and reason."""
    try:
        async with asyncio.timeout(120):
            while True:
                await connection.recv()
    except ConnectionClosed as error:
        assert error.rcvd is not None, "closed without a word"
        return error.rcvd.code, error.rcvd.reason


def hand_shake(producer: Address, path: str) -> bytes:
    """The request of a WebSocket client."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{producer.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


@asynccontextmanager
async def stuck_reader(producer: Address) -> AsyncIterator[asyncio.StreamReader]:
    """Asks for everything, and reads nothing of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", producer.port, limit=1)
    writer.write(hand_shake(producer, "/?from=earliest"))
    await writer.drain()
    try:
        yield reader
    finally:
        writer.transport.abort()
