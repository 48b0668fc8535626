"""Attributes from a request's query and headers reach the journal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from oncecast import Publisher, PublishRefused
from tests.support.producers import Address, last_offset, post, producer_here


@pytest.fixture
async def producer(tmp_path: Path) -> AsyncIterator[Address]:
    async with producer_here(tmp_path) as address:
        yield address


async def journalled(producer: Address) -> list[dict[str, Any]]:
    async with producer.client() as client:
        events: list[dict[str, Any]] = (await client.get("/events")).json()["events"]
    return events


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"[]", "application/json"),
        (b"[]", "application/cloudevents-batch+json"),
        (b"", "application/x-ndjson"),
        (b"\n\n", "application/x-ndjson"),
    ],
)
async def test_an_empty_batch_is_accepted_and_writes_nothing(
    producer: Address, body: bytes, content_type: str
) -> None:
    async with producer.client() as client:
        answer = await post(client, body, **{"content-type": content_type})
        assert (answer.status_code, answer.json()) == (202, {"accepted": 0, "events": []})
        assert await last_offset(client) == 0


async def test_several_id_places_make_each_change_of_an_order_an_event(producer: Address) -> None:
    changes = [{"id": 820982911946154508, "status": status} for status in ("pending", "paid", "refunded")]
    async with producer.client() as client:
        for number, change in enumerate(changes):
            for _delivered_twice in range(2):
                headers = {"x-github-delivery": f"d-{number}", "x-github-event": "order"}
                answer = await client.post("/events?preset=github", json=change, headers=headers)
                assert answer.json()["events"][0]["id"] == f"d-{number}"
        answer = await client.post("/events?id=/id&id=/status", json=changes)
        assert [event["id"] for event in answer.json()["events"]] == [
            f"820982911946154508/{change['status']}" for change in changes
        ]


async def test_a_missing_place_is_refused_and_nothing_is_accepted(producer: Address) -> None:
    async with producer.client() as client:
        answer = await client.post("/events?id=/order/number", json=[{"order": {"number": 1}}, {}])
        assert (answer.status_code, "event 2" in answer.json()["detail"]) == (422, True)
        assert (await client.post("/events?id=number", json={})).status_code == 400
        assert await last_offset(client) == 0


async def test_text_is_the_same_event_in_binary_and_in_structured_mode(producer: Address) -> None:
    attributes = {"specversion": "1.0", "source": "/s", "type": "t"}
    async with producer.client() as client:
        headers = {"content-type": "text/plain", **{f"ce-{name}": value for name, value in attributes.items()}}
        binary = await client.post("/events", content="héllo".encode(), headers={**headers, "ce-id": "1"})
        structured = {**attributes, "id": "2", "datacontenttype": "text/plain", "data": "héllo"}
        await post(client, structured, **{"content-type": "application/cloudevents+json"})
    assert binary.status_code == 202
    first, second = await journalled(producer)
    assert {**first, "id": "2"} == second


async def test_a_publisher_names_the_place_of_its_mappings_ids(producer: Address) -> None:
    async with Publisher(producer.http) as publisher:
        await publisher.publish({"id": 7, "n": 1})
        await publisher.publish({"id": None, "n": 2})
    async with Publisher(producer.http, id_at=("/order/number", "/status")) as publisher:
        await publisher.publish({"id": 7, "order": {"number": 9}, "status": "paid"})
        with pytest.raises(PublishRefused, match="/order/number"):
            await publisher.publish({"id": 8})
    first, second, third = await journalled(producer)
    assert (first["id"], third["id"]) == ("7", "9/paid")
    assert second["id"].startswith("evt_")


async def test_a_retry_with_the_same_idempotency_key_has_the_same_ids(producer: Address) -> None:
    async with httpx2.AsyncClient(base_url=producer.http) as client:
        answers = [await client.post("/events", json=[{"id": 1}, {}], headers={"idempotency-key": "k"}) for _ in "12"]
    first, again = ([event["id"] for event in answer.json()["events"]] for answer in answers)
    assert first == again
    assert "1" not in first
