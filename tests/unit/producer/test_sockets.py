"""The producer's faces over a real server in this process, with its journal in memory: what is odd is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import JournalFull, JournalUnavailable
from oncecast.core.telemetry import PublicationRefused, TelemetryEvent
from oncecast.core.wire import Resume, encode
from oncecast.http.guard import OriginGuard
from oncecast.http.server import bind, serve
from oncecast.producer.app import Producer, ProducerSettings
from oncecast.testing.memory.journal import MemoryJournal

V1 = [Subprotocol("oncecast.v1")]


class Face:
    """A producer that is served; `address` without scheme."""

    def __init__(self) -> None:
        self.journal = MemoryJournal(SYSTEM_CLOCK)
        self.telemetry_events: list[TelemetryEvent] = []
        self.producer = Producer(
            self.journal,
            ProducerSettings(instance="p"),
            SYSTEM_CLOCK,
            metrics=lambda: b"",
            emit=self.telemetry_events.append,
        )
        self.listening = bind("127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    face, stop = Face(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        app = OriginGuard(face.producer.app, bound_host="127.0.0.1")
        group.create_task(serve(app, face.listening, stop, SYSTEM_CLOCK, ws_max_bytes=100_000))
        yield face
        stop.set()


@pytest.fixture
async def client(face: Face) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://{face.address}") as client:
        yield client


@pytest.mark.parametrize("greeted", [False, True])
async def test_a_listener_that_sends_a_binary_frame_is_closed_with_a_reason(face: Face, greeted: bool) -> None:
    async with connect(f"ws://{face.address}/", subprotocols=V1) as connection:
        await connection.recv()
        if greeted:
            await connection.send(encode(Resume(instance="l", group="g", credit=1_000)).decode())
        await connection.send(b"binary")
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, "binary" in closed.value.rcvd.reason) == (1008, True)


async def test_an_event_in_binary_mode_is_the_structured_one(face: Face, client: httpx2.AsyncClient) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "a%20b", "ce-source": "/s", "ce-type": "t"}
    answer = await client.post("/events", content=b'{"n":1}', headers={**headers, "content-type": "application/json"})
    assert (answer.status_code, answer.json()["events"][0]["id"]) == (202, "a b")
    (event,) = (await client.get("/events")).json()["events"]
    assert (event["source"], event["type"], event["data"]) == ("/s", "t", {"n": 1})


async def test_binary_mode_that_cannot_be_read_is_refused_and_counted(face: Face, client: httpx2.AsyncClient) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s"}
    answer = await client.post("/events", content=b"", headers=headers)
    assert (answer.status_code, '"type"' in answer.json()["detail"]) == (422, True)
    assert [telemetry.status for telemetry in face.telemetry_events if isinstance(telemetry, PublicationRefused)] == [
        422
    ]
    assert face.journal.last == 0


@pytest.mark.parametrize(("failure", "status"), [(JournalFull("no room"), 507), (JournalUnavailable("down"), 503)])
async def test_a_journal_that_refuses_is_told_with_a_time_to_come_back_and_reads_go_on(
    face: Face, client: httpx2.AsyncClient, failure: JournalUnavailable, status: int
) -> None:
    assert (await client.post("/events", content=b"{}")).status_code == 202
    face.journal.failure = failure
    answer = await client.post("/events", content=b"{}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert int(answer.headers["retry-after"]) >= 1
    assert len((await client.get("/events")).json()["events"]) == 1
    face.journal.failure = None
    assert (await client.post("/events", content=b"{}")).status_code == 202
