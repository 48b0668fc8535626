"""The producer on a real server in this process, with a journal in memory: unusual requests get an answer."""

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


class Served:
    """A running producer; `address` has no scheme."""

    def __init__(self) -> None:
        self.journal = MemoryJournal(SYSTEM_CLOCK)
        self.telemetry_events: list[TelemetryEvent] = []
        self.producer = Producer(
            self.journal,
            ProducerSettings(instance="p"),
            SYSTEM_CLOCK,
            metrics=lambda: b"",
            record=self.telemetry_events.append,
        )
        self.listening = bind("127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served, stop = Served(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        app = OriginGuard(served.producer.app, bound_host="127.0.0.1")
        group.create_task(serve(app, served.listening, stop, SYSTEM_CLOCK, ws_max_bytes=100_000))
        yield served
        stop.set()


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://{served.address}") as client:
        yield client


@pytest.mark.parametrize("greeted", [False, True])
async def test_a_listener_that_sends_a_binary_frame_is_closed_with_a_reason(served: Served, greeted: bool) -> None:
    async with connect(f"ws://{served.address}/", subprotocols=V1) as connection:
        await connection.recv()
        if greeted:
            await connection.send(encode(Resume(instance="l", group="g", credit=1_000)).decode())
        await connection.send(b"binary")
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, "binary" in closed.value.rcvd.reason) == (1008, True)


async def test_an_event_in_binary_mode_is_the_structured_one(served: Served, client: httpx2.AsyncClient) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "a%20b", "ce-source": "/s", "ce-type": "t"}
    answer = await client.post("/events", content=b'{"n":1}', headers={**headers, "content-type": "application/json"})
    assert (answer.status_code, answer.json()["events"][0]["id"]) == (202, "a b")
    (event,) = (await client.get("/events")).json()["events"]
    assert (event["source"], event["type"], event["data"]) == ("/s", "t", {"n": 1})


async def test_binary_mode_that_cannot_be_read_is_refused_and_counted(
    served: Served, client: httpx2.AsyncClient
) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s"}
    answer = await client.post("/events", content=b"", headers=headers)
    assert (answer.status_code, '"type"' in answer.json()["detail"]) == (422, True)
    assert [
        telemetry.status for telemetry in served.telemetry_events if isinstance(telemetry, PublicationRefused)
    ] == [422]
    assert served.journal.last == 0


@pytest.mark.parametrize(("failure", "status"), [(JournalFull("no room"), 507), (JournalUnavailable("down"), 503)])
async def test_a_failing_journal_answers_retry_after_and_reads_continue(
    served: Served, client: httpx2.AsyncClient, failure: JournalUnavailable, status: int
) -> None:
    assert (await client.post("/events", content=b"{}")).status_code == 202
    served.journal.failing = failure
    answer = await client.post("/events", content=b"{}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert int(answer.headers["retry-after"]) >= 1
    assert len((await client.get("/events")).json()["events"]) == 1
    served.journal.failing = None
    assert (await client.post("/events", content=b"{}")).status_code == 202
