"""From a dead letter back to stored: list, mend, replay, by command and by API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support.stacks import StackOf, drained, rows, until

APP = {"app": "tests.support.mendable:app", "app_dir": Path(__file__).parents[2]}
FAILING = {"EVENT_RETRY_DELAY": "100ms"}


async def oncecast(*arguments: str, within_s: float = 60.0) -> tuple[int, str, str]:
    """The command's status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "oncecast",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )
    async with asyncio.timeout(within_s):
        out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def dead_letters(stack: Stack, count: int, **query: Any) -> list[dict[str, Any]]:
    """The dead letters that a listener tells of, once there are so many."""
    async with httpx.AsyncClient(base_url=stack.listener_urls["listener-a"], timeout=20) as client:

        async def enough() -> list[dict[str, Any]] | None:
            found: list[dict[str, Any]] = (await client.get("/api/dead-letters", params=query)).json()["dead_letters"]
            return found if len(found) == count else None

        return await until(enough)  # type: ignore[no-any-return]


async def test_a_dead_letter_is_listed_mended_and_replayed_by_command(stack_of: StackOf) -> None:
    async with stack_of(environment=FAILING) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(
            [Event.new("oncecast.failing", {"fails": True}, id=f"f{n}") for n in range(3)] + [Event.new("tick")]
        )
        await dead_letters(stack, 3)
        data = ("--data", str(stack.data))
        status, out, _ = await oncecast("dead-letters", "list", *data, "--json")
        assert (status, sorted(json.loads(line)["id"] for line in out.splitlines())) == (0, ["f0", "f1", "f2"])
        status, out, _ = await oncecast("dead-letters", "list", *data, "--no-json", "--error", "sent to fail")
        assert (status, out.count("RuntimeError: this event was sent to fail")) == (0, 3)
        status, out, _ = await oncecast("dead-letters", "show", "f1", *data, "--no-json")
        assert status == 0
        assert "demonstration.py" in out

        status, out, error = await oncecast("dead-letters", "replay", "f1", *data, "--json")
        [result] = json.loads(out)["results"]
        assert (status, result["outcome"]) == (1, "failed")

        mend = ("dead-letters", "edit", "f1", "--data", '{"fails": false}', "--stack", str(stack.data))
        assert (await oncecast(*mend))[0] == 0
        status, out, _ = await oncecast("dead-letters", "replay", "f1", *data, "--no-json")
        assert (status, out) == (0, "1 of 1 stored.\n")
        status, _, error = await oncecast("dead-letters", "replay", "f1", *data, "--no-json")
        assert status == 1
        assert "f1: not dead: there is no dead letter 'f1' (any more)" in error
        status, out, _ = await oncecast("dead-letters", "replay", "--all", "--dry-run", *data, "--no-json")
        assert (status, out.splitlines()[-1]) == (0, "2 dead letters would be replayed.")
        assert (await oncecast("dead-letters", "replay", "--all", *data, "--no-json"))[1] == "0 of 2 stored.\n"
        assert await rows(stack, "select id, data from oncecast.events where status = 'stored' and id = 'f1'") == [
            ("f1", {"fails": False})
        ]
        assert await rows(stack, "select id from oncecast.dead_letters where attempts = 4 order by id") == [
            ("f0",),
            ("f1",),
            ("f2",),
        ]


async def test_a_replay_runs_the_handler_once_however_often_it_is_asked_for(stack_of: StackOf) -> None:
    """The application's effects are counted, and both listeners are asked at the same time."""
    async with stack_of(**APP, environment=FAILING) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(
            [Event.new("order", {"sku": "tae"}, id=f"o{n}", source="/shop") for n in range(5)]
        )
        await dead_letters(stack, 5)
        for n in range(5):
            async with httpx.AsyncClient(timeout=20) as client:
                url = f"{stack.listener_urls['listener-b']}/api/dead-letters/o{n}"
                assert (await client.put(url, content=b'{"sku": "tea"}')).json()["mended"] is True
                body = {"events": [{"id": f"o{n}", "source": "/shop"}]}
                replays = [
                    client.post(f"{url}/api/dead-letters/replay", json=body)
                    for url in list(stack.listener_urls.values()) * 4
                ]
                answers = [answer.json()["results"][0]["outcome"] for answer in await asyncio.gather(*replays)]
                assert answers.count("stored") == 1, answers
                assert set(answers) <= {"stored", "not_dead", "unknown"}
        assert await rows(stack, "select id, count from public.reserved order by id") == [
            (f"o{n}", 1) for n in range(5)
        ]


async def test_the_same_event_sent_again_is_a_duplicate_and_stays_dead(stack_of: StackOf) -> None:
    async with (
        stack_of(listeners=1, environment=FAILING) as stack,
        Publisher(stack.publish_url) as publisher,
        httpx.AsyncClient(base_url=stack.listener_urls["listener-a"]) as client,
    ):
        event = Event.new("oncecast.failing", {"fails": True}, id="again")
        await publisher.publish(event)
        await dead_letters(stack, 1)
        await publisher.publish(event)
        await drained(stack)
        assert (await client.get("/health")).json()["duplicates"] == 1
        assert len(await dead_letters(stack, 1, id="again")) == 1
        unknown = await client.post("/api/dead-letters/replay", json={"events": [{"id": "other"}]})
        assert unknown.json()["results"][0]["outcome"] == "not_dead"
        for wrong in (b"", b"{", b'{"events":[]}', b'{"events":[{"id":1}]}', b'{"ids":["again"]}'):
            assert (await client.post("/api/dead-letters/replay", content=wrong)).status_code in (400, 422)
        assert (await client.get("/api/dead-letters/other")).status_code == 404
        assert (await client.put("/api/dead-letters/again", content=b"{")).status_code == 400
        assert (await client.put("/api/dead-letters/again", content=b'"\\u0000"')).status_code == 422


async def test_one_event_is_found_by_its_id_and_by_its_source_where_several_have_it(stack_of: StackOf) -> None:
    async with (
        stack_of(listeners=1) as stack,
        Publisher(stack.publish_url) as publisher,
        httpx.AsyncClient(base_url=stack.listener_urls["listener-a"]) as client,
    ):
        await publisher.publish_many([Event.new("tick", 1, id="a/b", source=source) for source in ("/x", "/y")])
        await drained(stack)
        assert (await client.get("/api/events/a%2Fb")).status_code == 409
        found = (await client.get("/api/events/a%2Fb", params={"source": "/y"})).json()
        assert (found["event"]["source"], found["status"], found["stale"]) == ("/y", "stored", False)
        assert (await client.get("/api/events/none")).status_code == 404


async def test_the_producer_relays_an_operators_requests_to_a_live_listener(stack_of: StackOf) -> None:
    async with (
        stack_of(environment=FAILING) as stack,
        Publisher(stack.publish_url) as publisher,
        httpx.AsyncClient(base_url=stack.publish_url, timeout=30) as client,
    ):
        await publisher.publish(Event.new("oncecast.failing", {"fails": True}, id="a/ü?b"))
        await dead_letters(stack, 1)
        await stack.kill("listener-a")
        path = "/api/dead-letters/a%2F%C3%BC%3Fb"
        [listed] = (await client.get("/api/dead-letters", params={"limit": 5, "error": "sent to fail"})).json()[
            "dead_letters"
        ]
        assert listed["id"] == "a/ü?b"
        assert (await client.get(path)).json()["event"]["data"] == {"fails": True}
        assert (await client.put(path, content=b'{"fails": false}')).json()["mended_data"] == {"fails": False}
        body = {"events": [{"id": "a/ü?b"}]}
        answer = await client.post("/api/dead-letters/replay", json=body)
        assert [result["outcome"] for result in answer.json()["results"]] == ["stored"]
        missing = await client.get(path)
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        assert (await client.get("/api/dead-letters", params={"limit": "x"})).status_code == 400
        assert (await client.get("/api/dead-letters", params={"group": "other"})).status_code == 404
        assert (await client.get("/api/dead-letters/../events")).status_code == 404
        await stack.kill("listener-b")

        async def nobody_is_left() -> bool:
            return (await client.get("/api/dead-letters")).status_code == 503

        await until(nobody_is_left)


async def test_a_listener_that_is_killed_while_it_is_asked_is_said_not_to_have_answered(stack_of: StackOf) -> None:
    app = {"app": "tests.support.counting:app", "app_dir": Path(__file__).parents[2]}
    async with (
        stack_of(
            **app, listeners=1, environment={**FAILING, "HANDLER_TIMEOUT": "1s", "EVENT_ATTEMPTS": "1"}
        ) as stack,
        Publisher(stack.publish_url) as publisher,
        httpx.AsyncClient(base_url=stack.publish_url, timeout=30) as client,
    ):
        await publisher.publish(Event.new("slow", {"seconds": 60}, id="slow"))
        await dead_letters(stack, 1)
        listener = stack.processes["listener-a"]
        assert listener.pid is not None
        os.kill(listener.pid, signal.SIGSTOP)
        asked = asyncio.create_task(client.post("/api/dead-letters/replay", json={"events": [{"id": "slow"}]}))
        done, _ = await asyncio.wait([asked], timeout=0.5)
        assert not done
        await stack.kill("listener-a")
        assert (await asked).status_code == 504
        assert await rows(stack, "select status from oncecast.events where id = 'slow'") == [("dead",)]
