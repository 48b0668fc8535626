"""Plain clients receive each event once and in order, whether they are served together or catch up on their own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from starlette.websockets import WebSocket
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.telemetry import ignore
from oncecast.event import Event
from oncecast.producer.broadcast.reading import ReadBudget
from oncecast.producer.broadcast.ring import Ring
from oncecast.producer.broadcast.session import SocketLimits
from oncecast.producer.broadcast.subscribers import ClientHub, PublishFrame
from oncecast.tasks import cancel_all
from oncecast.testing.memory.journal import MemoryJournal


class Client:
    """A client whose server offers to write frames; `takes` is the probability that it takes them at once."""

    def __init__(self, hub: ClientHub, *, takes: float = 1.0, query: str = "") -> None:
        self.got: list[str] = []
        self.written = 0
        """How many writes had events of all clients."""
        self.takes = takes
        self._draw = random.Random(7)
        scope = {
            "type": "websocket",
            "path": "/",
            "headers": [],
            "query_string": query.encode(),
            "subprotocols": [],
            "extensions": {"oncecast.frame_writer": {"write": self._write}},
        }
        self._messages = asyncio.Queue[dict[str, Any]]()
        self._messages.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.create_task(hub.serve(WebSocket(scope, self._messages.get, self._send)))

    def _write(self, frames: bytes) -> bool:
        if self._draw.random() >= self.takes:
            return False
        reader = StreamReader()
        reader.feed_data(frames)
        while reader.buffer:
            parsing = Frame.parse(reader.read_exact, mask=False, max_size=None)
            try:
                next(parsing)
            except StopIteration as parsed:
                assert parsed.value.opcode is Opcode.TEXT
                self._take(parsed.value.data)
        self.written += 1
        return True

    async def _send(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            self._take(message["text"])

    def _take(self, text: bytes | str) -> None:
        self.got.append(msgspec.json.decode(text)["id"])


def nobody_publishes(_query: bytes) -> PublishFrame:
    raise AssertionError


@asynccontextmanager
async def running(journal: MemoryJournal, *, ring_bytes: int = 10**6) -> AsyncIterator[ClientHub]:
    ring, budget = Ring(journal, ring_bytes), ReadBudget(SYSTEM_CLOCK)
    hub = ClientHub(journal, ring, budget, lambda _query: nobody_publishes, SocketLimits(), ignore)  # type: ignore[arg-type, return-value]
    loop = asyncio.create_task(hub.broadcast_loop())
    try:
        yield hub
    finally:
        await cancel_all([loop])


async def publish(journal: MemoryJournal, *ids: str) -> None:
    await journal.append([Event.new("tick", "x" * 20, id=id_).to_json() for id_ in ids])


async def joined(hub: ClientHub, count: int) -> None:
    async with asyncio.timeout(20):
        while hub.count < count:
            await asyncio.sleep(0)


async def have(clients: list[Client], ids: list[str]) -> None:
    async with asyncio.timeout(20):
        while any(len(client.got) < len(ids) for client in clients):
            await asyncio.sleep(0)
    assert [client.got for client in clients] == [ids] * len(clients)


@pytest.mark.parametrize("ring_bytes", [1, 10**6])
@pytest.mark.parametrize("takes", [0.0, 0.5, 1.0])
async def test_each_client_receives_each_event_once_and_in_order(takes: float, ring_bytes: int) -> None:
    journal = MemoryJournal(SYSTEM_CLOCK)
    async with running(journal, ring_bytes=ring_bytes) as hub:
        clients = [Client(hub), Client(hub, takes=takes)]
        await joined(hub, 2)
        ids: list[str] = []
        for n in range(50):
            new = [f"{n}-{k}" for k in range(1 + n % 4)]
            await publish(journal, *new)
            ids += new
            if n % 10 == 0:
                clients.append(Client(hub, takes=takes, query="from=earliest"))
            if n % 3:
                await asyncio.sleep(0)
        await have(clients, ids)
        await cancel_all([client.task for client in clients])


async def test_events_are_encoded_once_for_all_clients_that_are_up_to_date() -> None:
    journal = MemoryJournal(SYSTEM_CLOCK)
    async with running(journal) as hub:
        clients = [Client(hub) for _ in range(3)]
        await joined(hub, 3)
        for n in range(5):
            await publish(journal, str(n))
            await have(clients, [str(k) for k in range(n + 1)])
        assert [client.written for client in clients] == [5, 5, 5]
        await cancel_all([client.task for client in clients])


async def test_a_client_that_takes_nothing_is_served_on_its_own() -> None:
    journal = MemoryJournal(SYSTEM_CLOCK)
    async with running(journal) as hub:
        stuck, other = Client(hub, takes=0.0), Client(hub)
        await joined(hub, 2)
        await publish(journal, "a", "b")
        await have([stuck, other], ["a", "b"])
        assert stuck.written == 0
        await cancel_all([stuck.task, other.task])
        assert hub.count == 0


async def test_a_client_that_is_behind_catches_up_on_its_own_even_if_nobody_is_served() -> None:
    journal = MemoryJournal(SYSTEM_CLOCK)
    async with running(journal) as hub:
        await publish(journal, "a", "b")
        first = Client(hub)
        await joined(hub, 1)
        await publish(journal, "c")
        await have([first], ["c"])
        await cancel_all([first.task])
        behind = Client(hub, query="from=earliest")
        await have([behind], ["a", "b", "c"])
        latest = Client(hub)
        await joined(hub, 2)
        await publish(journal, "d")
        await have([latest], ["d"])
        await cancel_all([behind.task, latest.task])
