"""The lines that users were promised on a listener's console, each for what really happened; and as JSON."""

from __future__ import annotations

import json
import re
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.acceptance.test_recovery import FAILING, dead_letters
from tests.support.stacks import StackOf, drained, until

NAMES = ("listener-a", "listener-b")


def logs(stack: Stack, *names: str) -> str:
    return "".join((stack.data / name / "output.log").read_text() for name in names or NAMES)


HEAD = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?:INFO|WARNING|ERROR) \S+ \[[\w-]+\] "
"""What a line begins with: time, severity, instance and component."""


async def logged(stack: Stack, line: str, *names: str) -> None:
    """Wait until a line begins so after its head, where X is either listener."""
    pattern = re.compile(HEAD + re.escape(line).replace("X", "listener-[ab]"), re.MULTILINE)

    async def it_is() -> bool:
        return pattern.search(logs(stack, *names)) is not None

    await until(it_is)


async def logged_in_order(stack: Stack, *lines: str) -> None:
    """Wait until listener-a has said these one after the other, whatever it said between."""
    pattern = re.compile(".*".join(map(re.escape, lines)), re.DOTALL)

    async def they_are() -> bool:
        return pattern.search(logs(stack, "listener-a")) is not None

    await until(they_are)


async def test_the_processing_of_an_event_is_logged_line_by_line(stack_of: StackOf) -> None:
    async with stack_of() as stack, Publisher(stack.publish_url) as publisher:
        for name in NAMES:
            await logged(stack, f"✅ Connected to producer in {name}", name)
            await logged(stack, f"✅ Redis ready in {name}", name)
        await publisher.publish(Event.new("tick", id="evt_123"))
        for line in (
            "✅ Received event evt_123 in X",
            "✅ Event processing started for event evt_123 at X",
            "✅ Persisted evt_123 in instance X\n",
            "⚠️ Duplicate event evt_123 at X",
        ):
            await logged(stack, line)
        assert logs(stack).count("Persisted evt_123") == 1


async def test_the_failure_of_an_event_is_logged_line_by_line(stack_of: StackOf) -> None:
    async with stack_of(environment=FAILING) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("oncecast.failing", {"fails": True}, id="evt_456"))
        for left in (2, 1, 0):
            await logged(stack, f"❌ Processing failed for event evt_456 at X, retries left: {left}")
        await logged(stack, "❌ Event evt_456 failed after all retries in X")
        await logged(stack, "📝 Logged failed event evt_456 to failed_events.log")
        await dead_letters(stack, 1)
        lines = [
            json.loads(line)
            for name in NAMES
            for line in (stack.data / name / "failed_events.log").read_text().splitlines()
        ]
        assert [(line["event"]["id"], line["event"]["data"]) for line in lines] == [("evt_456", {"fails": True})]
        assert "this event was sent to fail" in lines[0]["error"]
        assert lines[0]["instance"] in NAMES
        assert lines[0]["note"].endswith("oncecast dead-letters replay --source /oncecast -- evt_456")
        assert re.match(r"\d{4}-\d\d-\d\dT", lines[0]["timestamp"])
        for name in NAMES:
            assert (stack.data / name / "failed_events.log").stat().st_mode & 0o777 == 0o600


async def test_attempts_are_three_two_seconds_apart_at_one_listener_that_keeps_the_lease(stack_of: StackOf) -> None:
    """With the settings as they are by default, but for a lease that would run out between the attempts."""
    environment = {"LOG_FORMAT": "json", "LEASE_TTL": "1s"}
    async with stack_of(environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("oncecast.failing", {"fails": True}, id="evt_456"))
        await dead_letters(stack, 1)
        logged = [json.loads(line) for line in logs(stack).splitlines()]
        failed = sorted((x for x in logged if x["event"] == "ProcessingFailed"), key=lambda x: x["timestamp"])
        assert [x["retries_left"] for x in failed] == [2, 1, 0]
        assert len({x["instance"] for x in failed}) == 1
        assert {x["instance"] for x in logged if x["event"] == "Started"} == {failed[0]["instance"]}
        times = [datetime.fromisoformat(x["timestamp"]) for x in failed]
        assert all(2.0 <= (b - a).total_seconds() < 4.0 for a, b in pairwise(times))


async def test_an_event_that_succeeds_at_last_says_that_it_did_so_after_a_retry(stack_of: StackOf) -> None:
    app = {"app": "tests.support.second_time:app", "app_dir": Path(__file__).parents[2]}
    async with stack_of(**app, listeners=1, environment=FAILING) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("stubborn", id="evt_1"))
        await logged(stack, "❌ Processing failed for event evt_1 at X, retries left: 2", "listener-a")
        await logged(stack, "✅ Persisted evt_1 in instance listener-a (after retry)\n", "listener-a")


async def test_the_loss_and_return_of_a_producer_are_logged(stack_of: StackOf) -> None:
    async with stack_of(listeners=1, environment={"RECONNECT_BASE": "100ms", "RECONNECT_MAX": "200ms"}) as stack:
        await logged(stack, "✅ Connected to producer in listener-a", "listener-a")
        await stack.stop("producer")
        await logged(stack, "❌ Disconnected from producer in listener-a", "listener-a")
        attempt = re.compile(
            HEAD + r"🔄 Attempting to reconnect in (\d+)ms \(attempt (\d+)\) in listener-a$", re.MULTILINE
        )

        async def tries() -> list[tuple[str, str]] | None:
            found = attempt.findall(logs(stack, "listener-a"))
            return found if len(found) >= 3 else None

        found = await until(tries)
        assert [int(number) for _, number in found[:3]] == [1, 2, 3]
        assert all(50 <= int(delay_ms) <= 200 for delay_ms, _ in found)
        await logged(stack, "🔄 Reconnecting to WebSocket in listener-a...\n", "listener-a")
        await stack.start("producer")

        async def is_back() -> bool:
            return logs(stack, "listener-a").count("✅ Connected to producer in listener-a") == 2

        await until(is_back)
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish(Event.new("tick", id="evt_9"))
        await logged(stack, "✅ Received event evt_9 in listener-a", "listener-a")
        before = len(attempt.findall(logs(stack, "listener-a")))
        await stack.stop("producer")

        async def tries_again() -> list[tuple[str, str]]:
            return attempt.findall(logs(stack, "listener-a"))[before:]

        assert (await until(tries_again))[0][1] == "1", "a success begins the count anew"


async def test_the_loss_and_return_of_redis_and_postgresql_are_logged(stack_of: StackOf) -> None:
    environment = {"DB_RETRY_DELAY": "100ms"}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        redis_is_ready = ("🔄 Connecting to Redis in listener-a...\n", "✅ Redis ready in listener-a\n")
        await logged_in_order(stack, *redis_is_ready)
        await stack.stop("valkey")
        await logged(stack, "⚠️ Redis unavailable in listener-a: duplicate risk", "listener-a")
        await publisher.publish(Event.new("tick", id="evt_1"))
        await logged(stack, "✅ Persisted evt_1 in instance listener-a", "listener-a")
        await stack.start("valkey")
        await logged_in_order(stack, "⚠️ Redis unavailable in listener-a", *redis_is_ready)
        await stack.stop("postgres")
        await publisher.publish(Event.new("tick", id="evt_2"))
        for left in (2, 1, 0):
            await logged(stack, f"❌ DB insert failed for evt_2, retries left: {left}", "listener-a")
        await logged(stack, "❌ PostgreSQL unavailable in listener-a: events wait", "listener-a")
        await stack.start("postgres")
        await logged(stack, "✅ PostgreSQL ready in listener-a\n", "listener-a")
        await logged(stack, "✅ Persisted evt_2 in instance listener-a", "listener-a")


@pytest.mark.parametrize("format", ["console", "json"])
async def test_under_load_a_batch_is_one_line(stack_of: StackOf, format: str) -> None:
    environment = {"LOG_FORMAT": format}
    async with stack_of(listeners=1, environment=environment) as stack, httpx2.AsyncClient(timeout=20) as client:
        body = b"[" + b",".join(Event.new("tick", id=f"evt_{n}").to_json() for n in range(1, 481)) + b"]"
        await client.post(f"{stack.publish_url}/events", content=body, headers={"content-type": "application/json"})
        await drained(stack)
        lines = logs(stack, "listener-a").splitlines()
        if format == "console":
            assert any(
                line.endswith("✅ Persisted 480 events in instance listener-a (evt_1 … evt_480)") for line in lines
            )
            assert len(lines) < 20
            return
        found = [json.loads(line) for line in lines]
        [persisted] = [line for line in found if line["event"] == "Persisted"]
        assert (persisted["count"], persisted["first_id"], persisted["last_id"]) == (480, "evt_1", "evt_480")
        assert (persisted["level"], persisted["instance"]) == ("info", "listener-a")
        assert persisted["message"] == "✅ Persisted 480 events in instance listener-a (evt_1 … evt_480)"
        assert all(line["timestamp"].endswith("Z") for line in found)
