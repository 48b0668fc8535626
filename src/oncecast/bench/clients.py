"""Clients that publish and receive as fast as the producer lets them: they only count, to leave it the CPU time."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx2

from oncecast.bench.system import NotExactlyOnce, event

_SENT_AT = re.compile(rb'"at":(\d+),')
_JSON = {"content-type": "application/json"}
STUCK_BUFFER_BYTES = 4096


class Poster(asyncio.Protocol):
    """Publishes one event per request on one connection, each when the one before it is acknowledged."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._answer = b""
        self._transport: asyncio.WriteTransport = asyncio.WriteTransport()
        self.acknowledged = 0
        self.refused = 0
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]
        """Send the first request."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count an answer, and send the next request."""
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
            return
        if head.startswith(b"HTTP/1.1 202"):
            self.acknowledged += 1
        else:
            self.refused += 1
        self._answer = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.ended.set()

    def _send(self) -> None:
        if (request := next(self._requests, None)) is None:
            self._transport.close()
        else:
            self._transport.write(request)


async def post_singly(url: str, source: str, connections: int, seconds: float) -> tuple[int, float]:
    """Publish single events on many connections for a while; return their number, and the time in s."""
    began_s = time.monotonic()
    requests = _requests(url, source, began_s + seconds)
    posters = []
    for _ in range(connections):
        made = asyncio.get_running_loop().create_connection(lambda: Poster(requests), *_place(url))
        posters.append((await made)[1])
    for poster in posters:
        await poster.ended.wait()
    if any(poster.refused for poster in posters):
        raise NotExactlyOnce("the producer refused events")
    return sum(poster.acknowledged for poster in posters), time.monotonic() - began_s


def _requests(url: str, source: str, until_s: float) -> Iterator[bytes]:
    n = 0
    head = f"POST /events HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\ncontent-type: application/json\r\n"
    while time.monotonic() < until_s:
        body = event(source, n, 240)
        yield f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        n += 1


async def publish_steadily(url: str, source: str, rate: float, seconds: float) -> int:
    """Publish `rate` events/s in a steady stream; return their number. Up to 500/s, each in a request of its own."""
    step_s = max(1 / rate, 0.002)
    count, begun_s = 0, time.monotonic()
    async with httpx2.AsyncClient(base_url=url, timeout=30.0, trust_env=False) as client:

        async def post(first: int, last: int) -> None:
            body = b"[" + b",".join(event(source, n, 240) for n in range(first, last)) + b"]"
            (await client.post("/events", content=body, headers=_JSON)).raise_for_status()

        async with asyncio.TaskGroup() as group:
            while (passed_s := time.monotonic() - begun_s) < seconds:
                if (due := int(passed_s * rate) + 1) > count:
                    group.create_task(post(count, due))
                    count = due
                await asyncio.sleep(step_s)
    return count


class Deliveries:
    """The delay of each delivery; `all_there` is set when there are `count`."""

    def __init__(self, count: int) -> None:
        self.delays_s: list[float] = []
        self.all_there = asyncio.Event()
        self._count = count

    def add(self, delay_ns: int) -> None:
        """Record a delivery."""
        self.delays_s.append(delay_ns / 1e9)
        if len(self.delays_s) >= self._count:
            self.all_there.set()


class Subscriber(asyncio.Protocol):
    """A plain WebSocket client."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._tail = b""
        self.received = 0
        self.joined = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Count the events in `data`; a field may be divided between two pieces."""
        now_ns = time.monotonic_ns()
        self.joined.set()  # the answer to the handshake
        text = self._tail + data
        end = 0
        for match in _SENT_AT.finditer(text):
            self._deliveries.add(now_ns - int(match[1]))
            self.received += 1
            end = match.end()
        self._tail = text[max(end, len(text) - 30) :]


async def broadcast(url: str, clients: int, rate: float, seconds: float) -> tuple[list[float], list[float]]:
    """Publish to many subscribers and one that never reads; return each delay of a delivery and of an answer, in s.

    Raises NotExactlyOnce unless each client received each event once.
    """
    loop, count = asyncio.get_running_loop(), int(rate * seconds)
    deliveries = Deliveries(clients * count)
    with ExitStack() as sockets:
        subscribers = []
        for _ in range(clients):
            transport, subscriber = await loop.create_connection(lambda: Subscriber(deliveries), *_place(url))
            sockets.callback(transport.close)
            transport.write(_handshake(url))
            await subscriber.joined.wait()
            subscribers.append(subscriber)
        stuck = sockets.enter_context(socket.socket())
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_BUFFER_BYTES)
        stuck.connect(_place(url))
        stuck.sendall(_handshake(url))
        acknowledged_s = await _publish_with_times(url, rate, count)
        async with asyncio.timeout(60):
            await deliveries.all_there.wait()
    if {subscriber.received for subscriber in subscribers} != {count}:
        raise NotExactlyOnce("not every client received every event once")
    return deliveries.delays_s, acknowledged_s


async def _publish_with_times(url: str, rate: float, count: int) -> list[float]:
    """Publish events that have the time at which they are sent; return the time to each acknowledgement, in s."""
    acknowledged_s, begun_s = [], time.monotonic()
    async with httpx2.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
        for n in range(count):
            await asyncio.sleep(begun_s + n / rate - time.monotonic())
            sent_s = time.monotonic()
            body = f'{{"id":"s-{n}","type":"tick","data":{{"at":{time.monotonic_ns()},"s":"{"x" * 170}"}}}}'
            (await client.post("/events", content=body.encode(), headers=_JSON)).raise_for_status()
            acknowledged_s.append(time.monotonic() - sent_s)
    return acknowledged_s


def _handshake(url: str) -> bytes:
    return (
        f"GET / HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def _place(url: str) -> tuple[str, int]:
    split = urlsplit(url)
    return split.hostname or "127.0.0.1", split.port or 80
