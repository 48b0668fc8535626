"""A small HTTP server that records requests and sends the responses that the test gives, one per request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass
class Request:
    """What was posted: header names in lower case."""

    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of its JSON array."""
        return msgspec.json.decode(self.body, type=list[dict[str, Any]])

    @property
    def ids(self) -> list[Any]:
        """Their ids."""
        return [event["id"] for event in self.events]


Answer = Callable[["Producer", Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Producer:
    """Answers the n-th request with `answers[n]`, any further one with an acknowledgement."""

    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    acknowledged: list[dict[str, Any]] = field(default_factory=list)
    health: dict[str, Any] = field(default_factory=dict)
    under_way: int = 0
    most_under_way: int = 0
    url: str = ""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Producer]:
        """Serve while the block runs."""
        tasks: set[asyncio.Task[None]] = set()
        writers: list[asyncio.StreamWriter] = []

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client is done
                while not writer.is_closing() and await self._serve_one(reader, writer):
                    pass
            writer.close()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Not a coroutine: one that is cancelled before its first step would never close its connection.
            writers.append(writer)
            tasks.add(asyncio.create_task(converse(reader, writer)))

        server = await asyncio.start_server(connected, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            # A connection that the loop is just accepting would leak from a closed server: let the loop hand it over
            # first.
            while accepting := [
                task for task in asyncio.all_tasks() if "_accept_connection" in repr(task.get_coro())
            ]:
                await asyncio.gather(*accepting, return_exceptions=True)
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in writers:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    @contextmanager
    def in_a_thread(self) -> Iterator[str]:
        """Serve alongside a command that runs an event loop of its own; gives the address."""
        loop, started, stopping = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

        async def serve() -> None:
            async with self.running():
                started.set()
                await stopping.wait()

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run)
        thread.start()
        started.wait()
        try:
            yield self.url
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        if head[0].startswith("GET /health "):
            respond(writer, 200, self.health)
            return True
        request = Request(headers, await reader.readexactly(int(headers["content-length"])))
        self.requests.append(request)
        self.arrived.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = self.answers[len(self.requests) - 1] if len(self.requests) <= len(self.answers) else accept
            await answer(self, request, writer)
        finally:
            self.under_way -= 1
        return True


def respond(writer: asyncio.StreamWriter, status: int, body: Any, headers: str = "") -> None:
    """Write one whole answer."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    writer.write(f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(content)}\r\n\r\n".encode() + content)


async def accept(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Acknowledge all of it."""
    first = len(producer.acknowledged) + 1
    producer.acknowledged += request.events
    receipts = [
        {"id": str(event["id"]), "source": "/oncecast", "cursor": f"e1:{offset}"}
        for offset, event in enumerate(request.events, first)
    ]
    respond(writer, 202, {"accepted": len(receipts), "events": receipts})


async def accept_but_hang_up(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Take all of it and close the connection before a word of the acknowledgement."""
    producer.acknowledged += request.events
    writer.close()


async def fall_silent(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


def refuse(status: int, problem: Any = b"", headers: str = "") -> Answer:
    """Answer with this status and problem: a mapping as a producer says it, bytes as anything between us might."""
    if status >= 400 and isinstance(problem, dict):
        headers += "Content-Type: application/problem+json\r\n"
        problem = {"title": "Refused", "status": status, **problem}

    async def answer(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        respond(writer, status, problem, headers)

    return answer


def when(gate: asyncio.Event, then: Answer) -> Answer:
    """Answer once the gate is open."""

    async def answer(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await then(producer, request, writer)

    return answer
