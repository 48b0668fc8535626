"""Unusual input passes through the whole system unchanged, or is refused by the producer; nothing stalls."""

from __future__ import annotations

import json
import unicodedata
from decimal import Decimal
from typing import Any

import httpx2

from oncecast import Event, Publisher
from tests.support.stacks import StackOf, drained, rows

CLOUD = {"specversion": "1.0", "source": "/s", "type": "t"}
MIB = 1024 * 1024


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


UNUSUAL: list[dict[str, Any]] = [
    *(
        {**CLOUD, "id": id_}
        for id_ in (
            unicodedata.normalize("NFC", "é"),
            unicodedata.normalize("NFD", "é"),
            "   ",
            "\u2028",
            "'; drop table oncecast.events; --",
            "<script>alert(1)</script>",
            "../../etc/passwd",
            "%00%s{schema}",
            "x" * 512,
            "😀" * 128,
        )
    ),
    {**CLOUD, "id": "keys", "data": {f"k{n}": n for n in range(60_000)}},
    {**CLOUD, "id": "deep", "data": nested(199)},
    {**CLOUD, "id": "large", "data": "y" * (MIB - 1_000)},
    {**CLOUD, "id": "numbers", "data": [1e308, -0.0, 12345678901234567890, 1e-300, 0.1]},
    {**CLOUD, "id": "leap", "time": "2016-12-31T23:59:60Z"},
    {**CLOUD, "id": "null", "data": None},
    {**CLOUD, "id": "text", "data": "\u202e\ufeff\x1b[2J\r\n\\u0000"},
    {**CLOUD, "id": "extended", "traceparent": "00-x", "sampled": True, "priority": -(2**31)},
    {**CLOUD, "id": "same", "source": "/a"},
    {**CLOUD, "id": "same", "source": "/b"},
]


async def test_what_is_unusual_but_valid_is_stored_and_read_back_with_its_value(stack_of: StackOf) -> None:
    async with stack_of() as stack, httpx2.AsyncClient(timeout=30) as client:
        for event in UNUSUAL:
            headers = {"content-type": "application/cloudevents+json"}
            answer = await client.post(f"{stack.publish_url}/events", content=json.dumps(event), headers=headers)
            assert answer.status_code == 202, (event["id"][:40], answer.text)
        await drained(stack)
        listener = stack.listener_urls["listener-b"]
        for event in UNUSUAL:
            query = {"source": event["source"], "id": event["id"]}
            answer = await client.get(f"{listener}/api/events", params=query)
            [row] = json.loads(answer.content, parse_int=Decimal, parse_float=Decimal)["events"]
            assert row["status"] == "stored"
            for name in ("id", "source", "type", "data", "traceparent", "sampled", "priority"):
                sent = json.loads(json.dumps(event.get(name)), parse_int=Decimal, parse_float=Decimal)
                assert row["event"].get(name) == sent, event["id"][:40]
        for log in stack.data.glob("*/output.log"):
            assert "\x1b" not in log.read_text()


async def test_a_hundred_thousand_events_in_one_request_are_accepted_and_stored(stack_of: StackOf) -> None:
    body = b"[" + b",".join(b'{"id":%d}' % n for n in range(100_000)) + b"]"
    async with stack_of() as stack, httpx2.AsyncClient(timeout=60) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post(f"{stack.publish_url}/events", content=body, headers=headers)
        assert (answer.status_code, answer.json()["accepted"]) == (202, 100_000)
        await drained(stack)
        assert await rows(stack, "select count(*), count(distinct id) from oncecast.events") == [(100_000, 100_000)]


async def test_an_identity_comes_again_in_every_way_and_ends_once(stack_of: StackOf) -> None:
    """Twice in one request, through two producers, with the same content and with other content."""
    async with (
        stack_of(producers=2) as stack,
        Publisher(stack.publish_urls[0]) as first,
        Publisher(stack.publish_urls[1]) as second,
    ):
        event, other = Event.new("t", {"n": 1}, id="same"), Event.new("t", {"n": 2}, id="same")
        await first.publish_many([event, event, Event.new("t", id="neighbour")])
        await drained(stack)
        await second.publish(event)
        await second.publish(other)
        await second.publish(Event.new("t", id="afterwards"))
        await drained(stack)
        assert sorted(await rows(stack, "select id, data->>'n' from oncecast.events")) == [
            ("afterwards", None),
            ("neighbour", None),
            ("same", "1"),
        ]
        conflicts = await rows(
            stack, "select id, convert_from(raw, 'UTF8')::jsonb->'data'->>'n' from oncecast.conflicts"
        )
        assert conflicts == [("same", "2")]
        async with httpx2.AsyncClient() as client:
            counted = 0.0
            for url in stack.listener_urls.values():
                lines = (await client.get(f"{url}/metrics")).text.splitlines()
                counted += sum(
                    float(x.split()[1]) for x in lines if x.startswith('oncecast_finished_total{outcome="conflict"')
                )
        assert counted >= 1
