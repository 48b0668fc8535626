"""A conflict is shown wherever dead letters are, and can be replayed under an id of its own or discarded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2

from oncecast.embedded import Stack
from tests.acceptance.test_recovery import oncecast
from tests.support.stacks import StackOf, drained, rows, until

APP = {"app": "tests.support.correctable:app", "app_dir": Path(__file__).parents[2]}
ORDER = 820982911946154508


async def publish_changes(stack: Stack, *skus: str, query: str = "type=order") -> None:
    """Publish changes of one order as a sender of webhooks does whose `id` is the order's; all but tea fail."""
    async with httpx2.AsyncClient(timeout=20) as client:
        for number, sku in enumerate(skus):
            body = {"id": ORDER, "sku": sku, "n": number}
            answer = await client.post(f"{stack.publish_url}/events?{query}", json=body)
            assert answer.status_code == 202, answer.text
    await drained(stack)


async def reserved(stack: Stack) -> dict[str, int]:
    """The effects of each event."""
    return dict(await rows(stack, "select id, count from public.reserved"))


async def test_a_body_whose_id_is_not_the_events_is_handled_for_each_delivery_once_the_address_says_so(
    stack_of: StackOf,
) -> None:
    async with stack_of(**APP, listeners=1) as stack:
        async with httpx2.AsyncClient(timeout=20) as client:
            url = f"{stack.publish_url}/events?type=order&id=header:X-Delivery"
            for delivery in ("d-1", "d-2", "d-3", "d-3"):
                body = {"id": ORDER, "sku": "tea", "status": delivery}
                assert (await client.post(url, json=body, headers={"x-delivery": delivery})).status_code == 202
        await drained(stack)
        assert await reserved(stack) == {"d-1": 1, "d-2": 1, "d-3": 1}
        assert await rows(stack, "select * from oncecast.conflicts") == []


async def test_conflicts_are_listed_shown_replayed_and_discarded_by_command(stack_of: StackOf) -> None:
    async with stack_of(**APP, listeners=1) as stack:
        await publish_changes(stack, "tea", "cake", "tea")
        data = ("--data", str(stack.data))
        status, out, _ = await oncecast("conflicts", "list", *data, "--json")
        tea, cake = (json.loads(line)["cursor"] for line in out.splitlines())
        assert status == 0
        status, out, _ = await oncecast("conflicts", "list", *data, "--no-json", "--id", str(ORDER))
        assert (status, out.count(str(ORDER))) == (0, 2)
        status, out, _ = await oncecast("conflicts", "show", cake, *data, "--no-json")
        assert (status, "cake" in out, "identity of" in out) == (0, True, True)

        status, out, error = await oncecast("conflicts", "replay", "--all", *data, "--no-json")
        assert (status, "1 of 2 conflicts stored." in out, "cake" in error) == (1, True, True), out + error
        assert sorted((await reserved(stack)).values()) == [1, 1]
        status, out, error = await oncecast("conflicts", "replay", tea, *data, "--json")
        assert (status, json.loads(out)["outcome"]) == (1, "not_open")
        assert sorted((await reserved(stack)).values()) == [1, 1]

        status, out, _ = await oncecast("conflicts", "discard", cake, *data, "--no-json")
        assert (status, out.strip()) == (0, "1 conflict discarded.")
        status, out, _ = await oncecast("conflicts", "list", *data, "--no-json")
        assert (status, out.strip()) == (0, "There is no open conflict.")
        status, out, _ = await oncecast("conflicts", "restore", cake, *data, "--no-json")
        assert (status, out.strip()) == (0, "1 conflict restored.")


async def test_a_listener_and_a_producer_show_and_replay_conflicts_and_count_them(stack_of: StackOf) -> None:
    async with stack_of(**APP, listeners=1) as stack, httpx2.AsyncClient(timeout=20) as client:
        await publish_changes(stack, "tea", "tea", "salt")
        listener = stack.listener_urls["listener-a"]
        found = [(await client.get(f"{url}/api/conflicts")).json() for url in (listener, stack.publish_url)]
        assert found[0] == found[1]
        salt, tea = (conflict["cursor"] for conflict in found[0]["conflicts"])
        (first,) = (await client.get(f"{stack.publish_url}/api/conflicts?limit=1")).json()["conflicts"]
        assert first["cursor"] == salt
        one = (await client.get(f"{stack.publish_url}/api/conflicts/{tea}")).json()
        assert (one["event"]["data"], one["row"]["status"]) == ({"id": ORDER, "sku": "tea", "n": 1}, "stored")

        async def health_counts(count: int) -> bool:
            return bool((await client.get(f"{listener}/health")).json()["conflicts_open"] == count)

        await until(lambda: health_counts(2))
        assert 'oncecast_conflicts_open{group="oncecast"} 2.0' in (await client.get(f"{listener}/metrics")).text
        metrics = (await client.get(f"{listener}/metrics")).text
        assert 'oncecast_finished_total{outcome="conflict",type="' in metrics

        body = {"conflicts": [{"cursor": tea, "id": "order-2"}]}
        answers = await asyncio.gather(
            *(client.post(f"{url}/api/conflicts/replay", json=body) for url in (listener, stack.publish_url))
        )
        assert sorted(answer.json()["results"][0]["outcome"] for answer in answers) == ["not_open", "stored"]
        assert await reserved(stack) == {str(ORDER): 1, "order-2": 1}
        taken = {"conflicts": [{"cursor": salt, "id": "order-2"}]}
        (result,) = (await client.post(f"{listener}/api/conflicts/replay", json=taken)).json()["results"]
        assert (result["outcome"], "already" in result["error"]) == ("failed", True)
        discarded = await client.post(f"{stack.publish_url}/api/conflicts/discard", json={"cursors": [salt, "e1:9"]})
        assert (discarded.json()["done"], len(discarded.json()["not_done"])) == (1, 1)
        await until(lambda: health_counts(0))
        states = {
            s: (await client.get(f"{listener}/api/conflicts?state={s}")).json() for s in ("replayed", "discarded")
        }
        assert [c["replayed_as"] for c in states["replayed"]["conflicts"]] == ["order-2"]
        assert [c["cursor"] for c in states["discarded"]["conflicts"]] == [salt]


async def test_what_is_no_conflict_is_refused_with_the_reason(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, httpx2.AsyncClient(timeout=20) as client:
        listener = stack.listener_urls["listener-a"]
        asked: list[tuple[str, str, Any, int]] = [
            ("GET", "/api/conflicts?state=none", None, 400),
            ("GET", "/api/conflicts?after=x", None, 400),
            ("GET", "/api/conflicts?limit=0", None, 400),
            ("GET", "/api/conflicts/x", None, 404),
            ("GET", "/api/conflicts/e1:7", None, 404),
            ("POST", "/api/conflicts/replay", {"conflicts": []}, 422),
            ("POST", "/api/conflicts/replay", {"conflicts": [{"cursor": "x"}]}, 422),
            ("POST", "/api/conflicts/replay", {"conflicts": [{"cursor": "e1:7", "id": ""}]}, 422),
            ("POST", "/api/conflicts/replay", {"conflicts": [{"cursor": "e1:7", "id": "a\nb"}]}, 422),
            ("POST", "/api/conflicts/discard", {"cursors": ["x"]}, 422),
        ]
        for method, path, body, status in asked:
            answer = await client.request(method, listener + path, json=body)
            assert answer.status_code == status, (path, body, answer.text)
