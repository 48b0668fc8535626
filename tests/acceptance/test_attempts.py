"""EVENT_ATTEMPTS counts over restarts and takeovers, and what waits for its next attempt is visible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.acceptance.test_recovery import oncecast
from tests.support.stacks import StackOf, rows, until

APP = """
from pathlib import Path
from oncecast import App, Event, Transaction

app = App("oncecast")
ATTEMPTS = Path(__file__).with_name("attempts")

@app.on("fails")
async def fail(event: Event, tx: Transaction) -> None:
    with ATTEMPTS.open("a") as file:
        file.write(event.id + "\\n")
    raise ValueError("never works")

@app.on("ordered", ordered_by="subject")
async def fail_in_order(event: Event, tx: Transaction) -> None:
    await fail(event, tx)

@app.on("shared", share_transaction=True)
async def fail_together(event: Event, tx: Transaction) -> None:
    if event.data["fails"]:
        await fail(event, tx)
"""


def application(folder: Path) -> dict[str, Any]:
    (folder / "failing.py").write_text(APP)
    return {"app": "failing:app", "app_dir": folder}


def attempts(folder: Path) -> list[str]:
    file = folder / "attempts"
    return file.read_text().split() if file.exists() else []


async def counted(stack: Stack, count: int) -> None:
    """Wait until PostgreSQL has `count` failed attempts of the event, or it has ended."""

    async def is_counted() -> bool:
        return bool(
            await rows(stack, f"select 1 from oncecast.attempts where attempts >= {count}")
            or await rows(stack, "select 1 from oncecast.events where status = 'dead'")
        )

    await until(is_counted)


async def the_dead(stack: Stack) -> tuple[Any, ...]:
    """The attempts of the dead event's row and of its dead letter."""
    query = """select e.attempts, d.attempts, d.error from oncecast.events e join oncecast.dead_letters d
               using (source, id)"""

    async def is_dead() -> list[tuple[Any, ...]]:
        return await rows(stack, query)

    return (await until(is_dead))[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("end", "listeners", "event"),
    [
        ("stop", 1, {"type": "fails"}),
        ("kill", 1, {"type": "fails"}),
        ("kill", 2, {"type": "ordered", "subject": "a"}),
        ("stop", 2, {"type": "shared", "data": {"fails": True}}),
    ],
    ids=["sigterm", "sigkill", "takeover, ordered", "takeover, shared"],
)
async def test_an_event_that_always_fails_has_three_attempts_over_restarts_and_takeovers(
    stack_of: StackOf, tmp_path: Path, end: str, listeners: int, event: dict[str, Any]
) -> None:
    environment = {"EVENT_RETRY_DELAY": "1s"}
    async with stack_of(**application(tmp_path), listeners=listeners, environment=environment) as stack:
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish(Event.new(**event))
        for count in (1, 2, 3):
            await counted(stack, count)
            for name in list(stack.listener_urls)[: 1 if count < 3 else listeners]:
                await getattr(stack, end)(name)
                await stack.start(name)
        assert await the_dead(stack) == (3, 3, "ValueError: never works")
        assert len(attempts(tmp_path)) == 3
        assert await rows(stack, "select * from oncecast.attempts") == []


async def test_without_redis_an_event_that_always_fails_has_three_attempts_over_restarts_too(
    stack_of: StackOf, tmp_path: Path
) -> None:
    environment = {"EVENT_RETRY_DELAY": "1s"}
    async with stack_of(**application(tmp_path), listeners=1, environment=environment) as stack:
        await stack.stop("valkey")
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish(Event.new("fails"))
        await counted(stack, 2)
        await stack.kill("listener-a")
        await stack.start("listener-a")
        assert await the_dead(stack) == (3, 3, "ValueError: never works")
        assert len(attempts(tmp_path)) == 3


async def test_an_attempt_that_is_due_much_later_is_not_made_by_the_next_process_and_is_listed(
    stack_of: StackOf, tmp_path: Path
) -> None:
    environment = {"EVENT_RETRY_DELAY": "240s"}
    async with (
        stack_of(**application(tmp_path), listeners=1, environment=environment) as stack,
        Publisher(stack.publish_url) as publisher,
        httpx2.AsyncClient(base_url=stack.listener_urls["listener-a"], timeout=20) as client,
    ):
        bad = [Event.new("fails", id="f1"), Event.new("shared", {"fails": True}, id="f2")]
        await publisher.publish_many(bad)

        async def retrying() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await client.get("/api/retrying")).json()["retrying"]
            return found if len(found) == 2 else []

        before = await until(retrying)
        await stack.stop("listener-a")
        await stack.start("listener-a")
        good = [Event.new("shared", {"fails": False}, id=f"g{n}") for n in range(20)]
        await publisher.publish_many(good)

        async def good_are_stored() -> bool:
            return await rows(stack, "select count(*) from oncecast.events") == [(20,)]

        await until(good_are_stored)
        assert await retrying() == before
        assert sorted(attempts(tmp_path)) == ["f1", "f2"]

        data = ("--data", str(stack.data))
        status, out, _ = await oncecast("events", "--retrying", *data, "--json")
        listed = [json.loads(line) for line in out.splitlines()]
        assert (status, listed) == (0, before)
        assert {(x["id"], x["attempts"], x["error"]) for x in listed} == {
            ("f1", 1, "ValueError: never works"),
            ("f2", 1, "ValueError: never works"),
        }
        status, out, _ = await oncecast("events", "--retrying", *data, "--no-json", "--limit", "1")
        assert (status, "Only the first 1 are shown" in out) == (0, True)


async def test_counts_are_right_over_a_pause_of_postgresql(stack_of: StackOf, tmp_path: Path) -> None:
    environment = {"EVENT_RETRY_DELAY": "1s"}
    async with stack_of(**application(tmp_path), listeners=1, environment=environment) as stack:
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish(Event.new("fails"))
        await counted(stack, 1)
        await stack.stop("postgres")

        async def is_seen() -> bool:
            async with httpx2.AsyncClient() as client:
                answer = await client.get(f"{next(iter(stack.listener_urls.values()))}/health")
            return bool(answer.json()["status"] != "ok")

        await until(is_seen)
        await stack.start("postgres")
        assert await the_dead(stack) == (3, 3, "ValueError: never works")
        assert len(attempts(tmp_path)) == 3
