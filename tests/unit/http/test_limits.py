"""Limits of one client before its request is read: beyond them, it gets the reason and is closed."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.telemetry import ConnectionRefused, TelemetryEvent
from oncecast.http import connection
from oncecast.http.connections import HttpLimits
from oncecast.http.problems import json_response
from oncecast.http.server import bind, serve

HEAD = b"Host: localhost\r\n"
REQUEST = b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n"
SHAKE = (
    b"GET / HTTP/1.1\r\n" + HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer requests after their body, except for `/early`; echo the sizes of WebSocket messages."""
    if scope["type"] == "http":
        while scope["path"] != "/early" and (message := await receive()).get("more_body"):
            assert message["type"] == "http.request"
        await json_response({"path": scope["path"]})(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": str(len(message["text"]))})


class Server:
    """A server on `port`, and its refusals."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"ws://127.0.0.1:{port}"
        self.telemetry_events: list[TelemetryEvent] = []

    @property
    def refused(self) -> list[int]:
        return [telemetry.status for telemetry in self.telemetry_events if isinstance(telemetry, ConnectionRefused)]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def answer(self, *pieces: bytes) -> bytes:
        """Return everything that the server sends until it closes."""
        async with self.client() as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            async with asyncio.timeout(120):
                return await reader.read()


@asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[Server]:
    stop = asyncio.Event()
    with bind("127.0.0.1", 0) as listening:
        server = Server(listening.getsockname()[1])
        given = HttpLimits(**limits)  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as group:
            group.create_task(
                serve(
                    application,
                    listening,
                    stop,
                    SYSTEM_CLOCK,
                    ws_max_bytes=2**20,
                    limits=given,
                    record=server.telemetry_events.append,
                )
            )
            try:
                yield server
            finally:
                stop.set()


@pytest.fixture(autouse=True)
def lingers_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for clients that do not close."""
    monkeypatch.setattr(connection, "LINGER_S", 0.1)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 2**20, 431),
        (b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 2**20, 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200_000, 431),
        (b"\r\n" * 20_000, 431),
        (SHAKE + b"X: y\r\n" * 130 + b"\r\n", 431),
        (SHAKE + b"X: " + b"y" * 8_100 + b"\r\n\r\n", 431),
        (SHAKE + b"Content-Length: 5\r\n\r\n", 413),
        (SHAKE + b"Transfer-Encoding: chunked\r\n\r\n", 413),
        (SHAKE.replace(b"GET", b"POST") + b"\r\n", 405),
        (SHAKE.replace(b"Upgrade: websocket", b"Upgrade: websocket\r\nb\x80d: \xff") + b"\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else None,
)
async def test_an_invalid_head_is_answered_with_the_reason_and_closed(
    server: Server, head: bytes, status: int
) -> None:
    said = await server.answer(head)
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in said
    assert server.refused == [status]


async def test_a_head_of_the_maximum_size_is_read_in_any_pieces(server: Server) -> None:
    head = b"GET /ok HTTP/1.1\r\nConnection: close\r\nX: " + b"x" * 16_000 + b"\r\n\r\n"
    said = await server.answer(*(head[at : at + 100] for at in range(0, len(head), 100)))
    assert said.startswith(b"HTTP/1.1 200 ")


async def test_a_refused_client_that_still_sends_can_read_the_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 1.0)
    async with server.client() as (reader, writer):
        for _ in range(200):
            writer.write(b"x" * 65_536)
        async with asyncio.timeout(120):
            assert (await reader.read()).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("begin", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", REQUEST + b"GET /"])
async def test_a_head_has_a_deadline_wherever_it_stops(begin: bytes) -> None:
    async with serving(head_timeout_s=0.2) as server:
        said = await server.answer(begin)
    assert (b"408" in said) == bool(begin)
    assert said.startswith(b"HTTP/1.1 200") == begin.startswith(REQUEST)


async def test_a_trickling_head_has_the_same_deadline() -> None:
    async with serving(head_timeout_s=0.3) as server, server.client() as (reader, writer):
        begun_s = time.monotonic()
        reading = asyncio.create_task(reader.read())
        while not reading.done():
            writer.write(b"G" if not writer.transport.is_closing() else b"")
            await asyncio.wait([reading], timeout=0.05)
        assert time.monotonic() - begun_s < 5


async def test_an_idle_connection_is_kept_and_answers_its_next_request(server: Server) -> None:
    async with server.client() as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")


async def test_a_thousand_requests_in_one_segment_are_answered_in_order(server: Server) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % n for n in range(1_000))
    async with server.client() as (reader, writer):
        writer.write(requests)
        for n in range(1_000):
            assert (await reader.readuntil(b"}")).endswith(b'{"path":"/%d"}' % n)


async def test_the_unread_rest_of_a_body_has_a_deadline() -> None:
    async with serving(rest_of_body_s=0.2) as server:
        said = await server.answer(b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
    assert said.startswith(b"HTTP/1.1 200")


async def test_a_connection_continues_after_the_rest_of_an_unread_body(server: Server) -> None:
    async with server.client() as (reader, writer):
        writer.write(b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        writer.write(b"x" * 999 + REQUEST)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("tail", [b"1;" + b"x" * 300_000, b"1\r\nx\r\n0\r\nX: " + b"x" * 300_000])
async def test_chunk_extensions_and_trailers_are_bounded(server: Server, tail: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with suppress(ConnectionResetError):
        await server.answer(head, tail, tail)
    assert server.refused == [400]


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda count: resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_half_open_connections_are_closed_for_those_that_send_a_request(server: Server) -> None:
    async with serving(connections_max=50, connections_per_address=1_000) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(300)]
        for _, writer in idle:
            writer.write(b"GET /half HT")
        said = await server.answer(REQUEST.replace(b"Host", b"Connection: close\r\nHost"))
        assert said.startswith(b"HTTP/1.1 200")
        assert len(server.refused) >= 250
        for _, writer in idle:
            writer.transport.abort()


async def test_an_address_has_a_limit_and_busy_connections_stay() -> None:
    async with serving(connections_max=8, connections_per_address=1_000) as server:
        open_ = [await connect(server.url) for _ in range(6)]
        said = await server.answer(REQUEST)
        assert said.startswith(b"HTTP/1.1 429 ")
        assert b"CONNECTIONS_PER_ADDRESS" in said
        await open_.pop().close()
        assert (await server.answer(REQUEST.replace(b"Host", b"Connection: close\r\nHost"))).startswith(
            b"HTTP/1.1 200"
        )
        for one in open_:
            await one.send("abc")
            assert await one.recv() == "3"
            await one.close()


def test_the_limit_of_open_files_leaves_room_for_the_journal(few_descriptors: Callable[[int], None]) -> None:
    from oncecast.http.connections import _connections_max

    few_descriptors(256)
    assert _connections_max(1_000) == 192


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """Return a client's frame, masked with zeros."""
    return bytes([opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


@pytest.mark.parametrize(
    "flood",
    [frame(0x8A) * 9_000, frame(0x89) * 9_000, frame(0x81) * 9_000, frame(0x01, b"x") + frame(0x00) * 9_000],
    ids=["pongs", "pings", "empty texts", "empty fragments"],
)
async def test_a_flood_of_frames_without_content_is_closed_with_a_reason(server: Server, flood: bytes) -> None:
    async with server.client() as (reader, writer):
        writer.write(SHAKE + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(flood)
        async with asyncio.timeout(120):
            said = await reader.read()
    assert b"small fragments a second" in said
    assert server.refused == [429]


async def test_other_clients_are_answered_during_a_flood() -> None:
    async with (
        serving(idle_frames_burst=1e9) as server,
        server.client() as (reader, flooding),
        server.client() as (other, asking),
    ):
        flooding.write(SHAKE + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        flooding.write(frame(0x8A) * 300_000)
        for _ in range(5):
            asking.write(REQUEST)
            begun_s = time.monotonic()
            await other.readuntil(b"}")
            assert time.monotonic() - begun_s < 1.0


async def test_messages_of_any_size_and_number_arrive(server: Server) -> None:
    sizes = [0, 1, 63, 64, 4_095, 4_097, 70_000, 1_000_000] + [10] * 500
    async with connect(server.url) as client:
        sending = asyncio.create_task(_send_all(client, sizes))
        for size in sizes:
            assert await client.recv() == str(size)
        await sending
        await client.send(["x" * 100] * 1_000)
        assert await client.recv() == "100000"


async def _send_all(client: object, sizes: list[int]) -> None:
    for size in sizes:
        await client.send("x" * size)  # type: ignore[attr-defined]


async def test_a_closing_handshake_completes(server: Server) -> None:
    async with connect(server.url) as client:
        await client.send("x" * 300_000)
        await client.close()
        with pytest.raises(ConnectionClosed):
            await client.send("late")
    assert client.close_code == 1000


async def test_descriptors_are_accepted_a_few_at_a_time(server: Server) -> None:
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    assert (await server.answer(REQUEST.replace(b"Host", b"Connection: close\r\nHost"))).startswith(b"HTTP/1.1 200")
    for one in sockets:
        one.close()
