"""Acknowledged events are stored once; see also test_acknowledged.py and test_disk.py.

The numbers are those of the list of faults in docs/explanation/verification.md.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import httpx2
from websockets.asyncio.client import connect

from oncecast import Event, Publisher
from oncecast.chaos.system import running
from oncecast.embedded import Stack
from tests.acceptance.test_recovery import oncecast
from tests.support.judge import acknowledged, judge, publishing
from tests.support.stacks import StackOf, drained, rows, until


async def test_the_producer_is_killed_and_started_while_events_are_sent(stack: Stack) -> None:
    """26, 30."""
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        await stack.kill("producer")
        await stack.start("producer")
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_when_the_acknowledgement_is_lost_the_publishers_retry_has_one_effect(tmp_path: Path) -> None:
    """30. It is on disk, unacknowledged, and the publisher retries the same id."""
    async with running(tmp_path / "stack", listeners=2, producers=1, temporary=True) as system:
        link = system.links["publishers>producer"]
        link.inject("drop", "both")
        async with Publisher(system.publish_url("producer")) as publisher, asyncio.TaskGroup() as group:
            publishing = group.create_task(publisher.publish(Event.new("tick", id="once")))

            async def is_on_disk_and_stored() -> bool:
                return await rows(system.stack, "select status from chaos.events where id = 'once'") == [("stored",)]

            await until(is_on_disk_and_stored)
            assert not publishing.done()
            link.clear()
        await drained(system.stack)
        assert await rows(system.stack, "select id, status from chaos.events") == [("once", "stored")]


async def test_the_same_identity_again_is_a_duplicate_or_a_conflict_that_is_kept(stack_of: StackOf) -> None:
    """35. Twice in one request, again later, through another producer, and with other content."""
    async with stack_of(producers=2) as stack:
        same, other = Event.new("tick", {"n": 1}, id="x"), Event.new("tick", {"n": 2}, id="x")
        for url in stack.publish_urls:
            async with Publisher(url) as publisher:
                await publisher.publish_many([same, same])
                await publisher.publish(same)
            await drained(stack)
        async with Publisher(stack.publish_urls[1]) as publisher:
            await publisher.publish(other)
        await drained(stack)
        assert await rows(stack, "select id, data from oncecast.events") == [("x", {"n": 1})]
        ((raw,),) = await rows(stack, "select raw from oncecast.conflicts")
        assert Event.from_json(raw).data == {"n": 2}


async def test_a_flipped_byte_is_named_and_not_served_and_what_an_operator_skips_leaves_a_gap_record(
    stack_of: StackOf,
) -> None:
    """31. Everything else continues: listeners, readers and plain clients."""
    async with stack_of(listeners=2) as stack, httpx2.AsyncClient(base_url=stack.publish_url, timeout=10) as client:
        for name in stack.listeners:
            await stack.stop(name)
        for n in range(5):
            await client.post("/events", json=[{"id": f"{n}-{i}"} for i in range(10)])
        journal = stack.folder("producer") / "journal.db"
        await stack.stop("producer")
        database = sqlite3.connect(journal)
        with database:
            database.execute(
                "update batches set body = cast(replace(body, '2-3', '2-x') as blob) where first_offset = 21"
            )
        database.close()
        await stack.start("producer")
        damaged = await client.get("/events", params={"after": f"{await epoch(client)}:20"})
        assert (damaged.status_code, "offsets 21 to 30 fail their checksum" in damaged.text) == (500, True)
        health = (await client.get("/health")).json()
        assert (health["status"], "offsets 21 to 30 fail their checksum" in health["reason"]) == ("degraded", True)
        assert "oncecast journal check" in health["remedy"]
        assert "offsets 21 to 30 fail their checksum" in (stack.folder("producer") / "output.log").read_text()
        for name in stack.listeners:
            await stack.start(name)
        await client.post("/events", json=[{"id": "still-taken"}])

        async def what_stands_before_is_stored() -> bool:
            return await rows(stack, "select count(*) from oncecast.events") == [(20,)]

        await until(what_stands_before_is_stored)

        status, out, _ = await oncecast("journal", "check", str(journal), "--json")
        assert (status, json.loads(out)["damaged"]) == (1, [{"first": 21, "last": 30}])
        status, _, error = await oncecast("journal", "skip", str(journal), "21", "30")
        assert (status, "in use by another process" in error) == (1, True)
        await stack.stop("producer")
        status, _, error = await oncecast("journal", "skip", str(journal), "11", "20")
        assert (status, "are no damage" in error) == (1, True), "what can be read is never given up"
        assert (await oncecast("journal", "skip", str(journal), "21", "30"))[0] == 0
        await stack.start("producer")
        await client.post("/events", json=[{"id": "afterwards"}])
        await drained(stack)
        assert await rows(stack, "select count(*) from oncecast.events") == [(42,)]

        async def is_recorded() -> bool:
            return await rows(stack, "select first, last, reason from oncecast.gaps") == [(21, 30, "skipped")]

        await until(is_recorded)
        async with connect(stack.publish_url.replace("http", "ws") + "?from=earliest") as subscriber:
            seen = [json.loads(await subscriber.recv())["id"] for _ in range(42)]
        assert (seen[:20], seen[-2:]) == (
            [f"{n}-{i}" for n in range(2) for i in range(10)],
            ["still-taken", "afterwards"],
        )
        pages = await all_ids(client, limit=7)
        assert pages == seen


async def epoch(client: httpx2.AsyncClient) -> str:
    """Return the current epoch of the journal."""
    name: str = (await client.get("/api/journal")).json()["epoch"]
    return name


async def all_ids(client: httpx2.AsyncClient, *, limit: int) -> list[str]:
    """Return the ids of the whole journal, page by page."""
    ids: list[str] = []
    query: dict[str, str | int] = {"limit": limit}
    while events := (page := (await client.get("/events", params=query)).json())["events"]:
        ids += [event["id"] for event in events]
        query["after"] = page["next"]
    return ids
