"""The listener's API returns events that have ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support.stacks import StackOf, drained, until

WEBHOOKS = Path(__file__).parents[3] / "shared" / "data" / "github-webhooks.ndjson"


async def all_events(client: httpx2.AsyncClient, **query: str) -> list[dict[str, Any]]:
    """Every page of `/api/events`."""
    rows: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": None}
    while True:
        answer = await client.get(
            "/api/events", params={**query, **({"after": page["next"]} if page["next"] else {})}
        )
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page["events"]
        if page["next"] is None:
            return rows


def client_of(stack: Stack, name: str = "listener-a") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=stack.listener_urls[name], timeout=20)


@pytest.mark.skipif(not WEBHOOKS.is_file(), reason="needs the GitHub webhooks that are not part of the project")
async def test_real_github_webhooks_come_back_equal_in_value_to_what_was_sent(stack_of: StackOf) -> None:
    body = WEBHOOKS.read_bytes()
    sent = {event["id"]: event for event in map(json.loads, body.splitlines())}
    async with stack_of() as stack, client_of(stack, "listener-b") as client:
        headers = {"content-type": "application/x-ndjson"}
        answer = await client.post(f"{stack.publish_url}/events", content=body, headers=headers)
        assert (answer.status_code, answer.json()["accepted"], len(sent)) == (202, 329, 329)
        await drained(stack)
        found = {row["event"]["id"]: row["event"] for row in await all_events(client, limit="50")}
    assert found == sent


async def test_events_are_paged_newest_first_and_filtered(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, client_of(stack) as client, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many([Event.new("tick", {"n": n}, id=f"e{n}") for n in range(25)])
        await publisher.publish(Event.new("tock", id="last", source="/other"))
        await drained(stack)
        everything = await all_events(client, limit="7")
        assert sorted(row["event"]["id"] for row in everything) == sorted(["last", *(f"e{n}" for n in range(25))])
        assert everything == sorted(everything, key=lambda row: row["stored_at"], reverse=True)
        assert [row["event"]["id"] for row in await all_events(client, type="tock")] == ["last"]
        assert [row["event"]["id"] for row in await all_events(client, source="/other", id="last")] == ["last"]
        assert await all_events(client, status="dead") == []
        for wrong in (
            *({"limit": limit} for limit in ("0", "x", "1001", "0000000005" + "9" * 5_000)),
            *({"after": "x"}, {"status": "lost"}, {"type": "\0"}),
        ):
            assert (await client.get("/api/events", params=wrong)).status_code == 400, wrong
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/api/events")).status_code == 405


async def test_while_postgresql_is_away_reads_come_from_memory_and_say_so(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, client_of(stack) as client, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many([Event.new("tick", {"n": n}, id=f"e{n}") for n in range(150)])
        await drained(stack)  # of two batches at a time either may be the newer one
        await publisher.publish(Event.new("tock", id="last"))
        await drained(stack)
        fresh = (await client.get("/api/events")).json()
        await stack.stop("postgres")
        stale = (await client.get("/api/events")).json()
        assert (fresh["stale"], stale["stale"], stale["next"]) == (False, True, None)
        assert [row["event"] for row in stale["events"]][:1] == [row["event"] for row in fresh["events"]][:1]
        assert len(stale["events"]) == 100
        assert {tuple(sorted(row)) for row in stale["events"]} == {tuple(sorted(row)) for row in fresh["events"]}
        filtered = (await client.get("/api/events", params={"type": "tock", "status": "stored"})).json()
        assert [row["event"]["id"] for row in filtered["events"]] == ["last"]
        assert (await client.get("/api/events/last")).json()["stale"] is True
        assert (await client.get("/api/events/e0")).status_code == 503, "it may be there: 404 would be a lie"
        await stack.start("postgres")

        async def is_fresh() -> bool:
            return (await client.get("/api/events", params={"limit": 5})).json()["stale"] is False

        await until(is_fresh)


async def test_while_postgresql_is_away_it_says_so_and_comes_back(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, client_of(stack) as client, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("tick"))
        await drained(stack)
        mark = (await client.get("/api/events", params={"limit": 1})).json()["next"]
        await stack.stop("postgres")
        for path in (f"/api/events?after={mark}", "/api/dead-letters", "/api/gaps"):
            answer = await client.get(path)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True), path
            assert "password" not in answer.text
        await publisher.publish(Event.new("tick"))

        async def is_not_ready() -> bool:
            return (await client.get("/readyz")).status_code == 503

        await until(is_not_ready)
        assert (await client.get("/livez")).status_code == 200
        await stack.start("postgres")
        await drained(stack)
        assert (await client.get("/readyz")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'oncecast_finished_total{outcome="stored",type="tick"} 2.0' in metrics
        assert 'oncecast_dependency_up{dependency="database"} 1.0' in metrics


@pytest.mark.parametrize("face", ["producer", "listener"])
async def test_the_openapi_document_has_every_member_of_health(stack_of: StackOf, face: str) -> None:
    async with stack_of(listeners=1) as stack, httpx2.AsyncClient(timeout=20) as client:
        url = stack.publish_url if face == "producer" else stack.listener_urls["listener-a"]
        shown = (await client.get(f"{url}/health")).json()
        document = (await client.get(f"{url}/openapi.json")).json()
    answer = document["paths"]["/health"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][answer["$ref"].rpartition("/")[2]]
    assert set(schema["properties"]) == set(shown)
