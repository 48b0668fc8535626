"""Measure how soon events reach many plain WebSocket clients, one of which never reads.

Starts a producer, connects CLIENTS clients and one that is stuck, publishes RATE events of 240 bytes per second for
SECONDS, and prints the time from the request to its receipt by each client, the time to each acknowledgement, and the
CPU time of the producer in µs per delivery. Fails unless every client received every event once.

    python benchmarks/subscribers.py [--clients 1000] [--rate 50] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import msgspec
from end_to_end import cpu_s

from oncecast.embedded.ports import free_ports

EVENT_BYTES = 240
_SENT_AT = re.compile(rb'"at":(\d+),')


def handshake(port: int) -> bytes:
    """Return the request that opens a WebSocket."""
    return (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


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


class Client(asyncio.Protocol):
    """A client that only counts: decoding would take the CPU time that is measured."""

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


async def ready(client: httpx2.AsyncClient) -> None:
    """Wait until the producer answers."""
    async with asyncio.timeout(60):
        while True:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx2.TransportError:
                await asyncio.sleep(0.1)


def event(n: int) -> bytes:
    """Return an event with the time at which it is sent, in ns."""
    body = {"id": f"e-{n}", "type": "tick", "data": {"at": time.monotonic_ns(), "s": ""}}
    spare = EVENT_BYTES - len(msgspec.json.encode(body))
    body["data"]["s"] = "x" * spare  # type: ignore[index]
    return msgspec.json.encode(body)


def percentiles(values_s: list[float]) -> str:
    """Return the median, the 99th percentile and the maximum, in ms."""
    values_s.sort()
    p50, p99 = values_s[len(values_s) // 2], values_s[int(len(values_s) * 0.99)]
    return f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, max {values_s[-1] * 1e3:.1f} ms"


async def run(clients: int, rate: int, seconds: int) -> None:
    """Print the figures of one run."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    (port,) = free_ports(1)
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="oncecast-bench-") as folder, socket.socket() as stuck:
        command = [sys.executable, "-m", "oncecast", "producer", "--port", str(port), "--log-level", "error"]
        journal = ["--journal-path", str(Path(folder) / "journal.db")]
        producer = await asyncio.create_subprocess_exec(*command, *journal)
        try:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                await ready(http)
                count = rate * seconds
                deliveries = Deliveries(clients * count)
                joined: list[Client] = []
                for _ in range(clients):
                    transport, client = await loop.create_connection(lambda: Client(deliveries), "127.0.0.1", port)
                    transport.write(handshake(port))
                    await client.joined.wait()
                    joined.append(client)
                stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stuck.connect(("127.0.0.1", port))
                stuck.sendall(handshake(port))
                before_s, begun_s = cpu_s(producer.pid), time.monotonic()
                acknowledged_s = []
                for n in range(count):
                    await asyncio.sleep(begun_s + n / rate - time.monotonic())
                    sent_s = time.monotonic()
                    (await http.post("/events", content=event(n), headers=JSON)).raise_for_status()
                    acknowledged_s.append(time.monotonic() - sent_s)
                await asyncio.wait_for(deliveries.all_there.wait(), 60)
                cpu_us = (cpu_s(producer.pid) - before_s) / (clients * count) * 1e6
        finally:
            producer.terminate()
            await producer.wait()
    if {client.received for client in joined} != {count}:
        raise SystemExit("not every client received every event once")
    print(f"{clients:,} clients and a stuck one, {rate} events/s for {seconds} s")
    print(f"received: {percentiles(deliveries.delays_s)}; {cpu_us:.1f} µs of the producer per delivery")
    print(f"acknowledged: {percentiles(acknowledged_s)}")


JSON = {"content-type": "application/json"}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    asyncio.run(run(options.clients, options.rate, options.seconds))
