"""How long events are kept: the journal's cap and age, groups and gaps; the table's retention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.acceptance.test_recovery import oncecast
from tests.support.stacks import StackOf, drained, rows, until

SHOP = "from oncecast import App\n\napp = App('shop')\n"
SMALL = {"JOURNAL_MAX_BYTES": str(512 * 1024)}
EVENTS = [Event.new("tick", "x" * 1_000) for _ in range(100)]


async def ask(stack: Stack, path: str) -> Any:
    async with httpx2.AsyncClient(base_url=stack.publish_url, timeout=20) as client:
        return (await client.get(path)).json()


async def fill(stack: Stack, rounds: int = 20) -> int:
    """Publish until the journal is full, at most `rounds` times; return the number of accepted events."""
    accepted = 0
    async with httpx2.AsyncClient(base_url=stack.publish_url, timeout=20) as client:
        for _ in range(rounds):
            body = b"[" + b",".join(Event.new("tick", "x" * 1_000).to_json() for _ in range(100)) + b"]"
            answer = await client.post("/events", content=body, headers={"content-type": "application/json"})
            if answer.status_code != 202:
                assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
                assert answer.json()["detail"].startswith("the journal is full: ")
                return accepted
            accepted += 100
    return accepted


async def is_known(stack: Stack, name: str) -> None:
    """Wait until the producer knows that group."""

    async def listed() -> bool:
        return name in [group["name"] for group in (await ask(stack, "/api/groups"))["groups"]]

    await until(listed)


async def test_a_full_journal_refuses_names_who_holds_it_back_and_takes_again_once_that_one_has_processed(
    stack_of: StackOf,
) -> None:
    async with stack_of(listeners=1, environment=SMALL) as stack:
        await is_known(stack, "oncecast")
        await stack.stop("listener-a")
        accepted = await fill(stack)
        assert 300 <= accepted <= 600, "a full journal is about its cap"

        log = stack.data / "producer" / "output.log"
        assert f"the journal is full: the group 'oncecast' has not processed {accepted} events" in log.read_text()

        async def is_reported() -> bool:
            reported = "full of events that oncecast has not processed"
            return reported in log.read_text()

        await until(is_reported)
        status, out, _ = await oncecast("journal", "--data", str(stack.data), "--no-json")
        assert status == 0
        assert "held back by            oncecast" in out
        status, out, _ = await oncecast("groups", "list", "--data", str(stack.data), "--json")
        [group] = [json.loads(line) for line in out.splitlines()]
        assert (group["name"], group["behind"], group["connected"]) == ("oncecast", accepted, 0)
        await stack.start("listener-a")

        async def has_room() -> bool:
            return await fill(stack, rounds=1) == 100

        await until(has_room)
        await drained(stack)
        assert await fill(stack, rounds=20) > 0
        await drained(stack)
        assert (await rows(stack, "select count(*) from oncecast.gaps"))[0] == (0,)


async def test_an_application_of_any_name_works_without_a_setting_and_gets_what_came_before_it_joined(
    tmp_path: Path, stack_of: StackOf
) -> None:
    """The journal is filled several times over: it would be full for good if it kept events for somebody else."""
    (tmp_path / "shop.py").write_text(SHOP)
    options = {"app": "shop:app", "app_dir": tmp_path, "environment": SMALL, "listeners": 1}
    async with stack_of(**options) as stack, Publisher(stack.publish_url) as publisher:
        await stack.stop("listener-a")
        await publisher.publish_many(EVENTS)
        await stack.start("listener-a")
        for _ in range(10):
            await publisher.publish_many([Event.new("tick", "x" * 1_000) for _ in range(100)])
        await drained(stack)
        assert await rows(stack, "select count(*) from shop.events") == [(1_100,)]
        assert await rows(stack, "select count(*) from shop.gaps") == [(0,)]


async def test_a_group_that_was_forgotten_finds_a_gap_with_its_bounds_and_goes_on(stack_of: StackOf) -> None:
    async with stack_of(listeners=2, environment=SMALL) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(EVENTS)
        await drained(stack)

        async def is_saved() -> bool:
            return bool((await ask(stack, "/api/groups"))["groups"][0]["behind"] == 0)

        await until(is_saved)
        status, _, error = await oncecast("groups", "forget", "oncecast", "--data", str(stack.data))
        assert status == 1
        assert "connected: stop them first" in error
        await stack.stop("listener-a")
        await stack.stop("listener-b")
        await fill(stack)
        status, out, _ = await oncecast("groups", "forget", "oncecast", "--data", str(stack.data), "--no-json")
        assert (status, out) == (0, "oncecast does not hold back retention any more.\n")

        async def are_deleted() -> bool:
            await fill(stack, rounds=1)
            return bool((await ask(stack, "/api/journal"))["first"] > 101)

        await until(are_deleted)
        first = (await ask(stack, "/api/journal"))["first"]
        await stack.start("listener-a")
        await stack.start("listener-b")
        await drained(stack)
        async with httpx2.AsyncClient(base_url=stack.listener_urls["listener-a"]) as client:
            [gap] = (await client.get("/api/gaps")).json()["gaps"]
        assert (gap["first"], gap["last"], gap["reason"]) == (101, first - 1, "retention")
        last = (await ask(stack, "/api/journal"))["last"]
        assert await rows(stack, "select count(*) from oncecast.events") == [(100 + last - (first - 1),)]
        logs = "".join((stack.data / name / "output.log").read_text() for name in ("listener-a", "listener-b"))
        assert f"Events 101 to {first - 1} of journal" in logs


async def test_a_new_group_may_begin_at_the_end_and_goes_on_from_there_after_a_restart(stack_of: StackOf) -> None:
    environment = {"LISTENER_GROUP": "late", "START_FROM": "latest"}
    async with stack_of(listeners=1, environment=environment) as stack, Publisher(stack.publish_url) as publisher:
        await is_known(stack, "late")
        await publisher.publish(Event.new("tick", id="first"))
        await drained(stack)
        await stack.stop("listener-a")
        await publisher.publish(Event.new("tick", id="while away"))
        await stack.start("listener-a")
        await drained(stack)
        assert await rows(stack, 'select id from late.events order by "offset"') == [("first",), ("while away",)]


async def test_old_rows_are_pruned_by_command_and_by_setting(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many([*EVENTS, Event.new("oncecast.failing", {"fails": True}, id="dead")])
        await drained(stack)

        async def is_saved() -> bool:
            return (await rows(stack, 'select "offset" from oncecast.cursors')) == [(101,)]

        await until(is_saved)
        prune = ("prune", "--data", str(stack.data), "--no-json", "--older-than")
        assert (await oncecast(*prune, "1h"))[1] == "0 rows are gone.\n"
        assert (await oncecast(*prune, "1ms", "--dry-run"))[1] == "100 rows would go.\n"
        status, _, error = await oncecast(*prune, "soon")
        assert (status, error) == (
            1,
            "oncecast: invalid value for --older-than: 'soon' (expected a duration such as 2s, 500ms or 1m)\n",
        )
        assert (await oncecast(*prune, "1ms"))[1] == "100 rows are gone.\n"
        assert await rows(stack, "select id from oncecast.events") == [("dead",)]


async def test_rows_are_kept_for_the_configured_time(stack_of: StackOf) -> None:
    async with (
        stack_of(listeners=2, environment={"EVENTS_RETENTION": "1s"}) as stack,
        Publisher(stack.publish_url) as publisher,
    ):
        for _ in range(5):
            await publisher.publish_many([Event.new("tick") for _ in range(500)])

        async def all_but_the_newest_are_gone() -> bool:
            await publisher.publish(Event.new("tick"))
            return bool((await rows(stack, "select count(*) from oncecast.events"))[0][0] < 500)

        await until(all_but_the_newest_are_gone)
