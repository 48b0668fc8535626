"""Unsent pages use bounded memory, and clients still get every event."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from starlette.types import Message, Scope

from oncecast.clock import SYSTEM_CLOCK
from oncecast.producer.app import Producer, ProducerSettings
from oncecast.producer.broadcast.pages import CHUNK_BYTES, PageLimits
from oncecast.testing.memory.journal import MemoryJournal

EVENT = b'{"specversion":"1.0","id":"%d","source":"/s","type":"t","data":"' + b"x" * 900 + b'"}'


@pytest.fixture
async def producer(limits: PageLimits) -> Producer:
    journal = MemoryJournal(SYSTEM_CLOCK, frame_max_bytes=100_000)
    await journal.append([EVENT % n for n in range(300)])
    settings = ProducerSettings(instance="p", pages=limits)
    return Producer(journal, settings, SYSTEM_CLOCK, metrics=bytes, record=lambda _event: None)


def asking(limit: int) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": "/events",
        "raw_path": b"/events",
        "query_string": b"limit=%d" % limit,
        "headers": [],
        "root_path": "",
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
    }


async def nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("limits", [PageLimits(all_max_bytes=300_000)])
async def test_unsent_pages_leave_small_pages_to_others(producer: Producer, limits: PageLimits) -> None:
    taken, begun = asyncio.Event(), asyncio.Event()
    sent: list[Message] = []

    async def take_late(message: Message) -> None:
        begun.set()
        await taken.wait()
        sent.append(message)

    slow = asyncio.create_task(producer.app(asking(1_000), nothing, take_late))
    await begun.wait()
    transport = httpx2.ASGITransport(producer.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        small = (await client.get("/events?limit=1000")).json()
        assert 1 < len(small["events"]) <= limits.min_bytes // 900
        taken.set()
        await slow
        chunks = [message["body"] for message in sent if message["type"] == "http.response.body"]
        assert len(chunks) > 1
        assert max(map(len, chunks)) <= CHUNK_BYTES
        large = (await client.get("/events?limit=1000")).json()
        assert len(large["events"]) > 3 * len(small["events"])


@pytest.mark.parametrize("limits", [PageLimits(min_bytes=500, all_max_bytes=0)])
async def test_small_pages_reach_every_event_and_a_larger_event_has_its_own_page(producer: Producer) -> None:
    found: list[str] = []
    transport = httpx2.ASGITransport(producer.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        page = (await client.get("/events?limit=7")).json()
        while page["events"]:
            assert len(page["events"]) == 1
            found += [event["id"] for event in page["events"]]
            page = (await client.get("/events", params={"limit": 7, "after": page["next"]})).json()
    assert found == [str(n) for n in range(300)]
