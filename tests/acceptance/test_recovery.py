"""Dead letters are listed, edited and replayed, by command and by API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support.interrupts import interrupts_count
from tests.support.stacks import StackOf, drained, rows, until

APP = {"app": "tests.support.correctable:app", "app_dir": Path(__file__).parents[2]}
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
    """Wait until a listener lists `count` dead letters; return them."""
    async with httpx2.AsyncClient(base_url=stack.listener_urls["listener-a"], timeout=20) as client:

        async def enough() -> list[dict[str, Any]] | None:
            found: list[dict[str, Any]] = (await client.get("/api/dead-letters", params=query)).json()["dead_letters"]
            return found if len(found) == count else None

        return await until(enough)  # type: ignore[no-any-return]


async def test_a_dead_letter_is_listed_edited_and_replayed_by_command(stack_of: StackOf) -> None:
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
        assert "demo.py" in out

        status, out, error = await oncecast("dead-letters", "replay", "f1", *data, "--json")
        result, summary = map(json.loads, out.splitlines())
        assert (status, result["id"], result["outcome"]) == (1, "f1", "failed")
        assert summary == {"asked": 1, "stored": 0, "failed": 1, "not_dead": 0, "unknown": 0, "stopped": None}

        edit = ("dead-letters", "edit", "f1", "--with", '{"fails": false}', *data)
        assert (await oncecast(*edit))[0] == 0
        status, out, _ = await oncecast("dead-letters", "replay", "f1", *data, "--no-json")
        assert (status, out) == (0, "1 of 1 stored.\n")
        status, _, error = await oncecast("dead-letters", "replay", "f1", *data, "--no-json")
        assert status == 1
        assert "f1: not dead: there is no dead letter 'f1' (any more)" in error
        status, out, _ = await oncecast("dead-letters", "replay", "--all", "--dry-run", *data, "--no-json")
        assert (status, out.splitlines()[-1]) == (0, "2 dead letters would be replayed.")
        assert "RuntimeError: this event was sent to fail" in out
        status, out, _ = await oncecast("dead-letters", "replay", "--all", *data, "--no-json")
        assert (status, out) == (1, "0 of 2 stored; 2 failed.\n")
        assert await rows(stack, "select id, data from oncecast.events where status = 'stored' and id = 'f1'") == [
            ("f1", {"fails": False})
        ]
        assert await rows(stack, "select id from oncecast.dead_letters where attempts = 4 order by id") == [
            ("f0",),
            ("f1",),
            ("f2",),
        ]


async def test_dead_letters_are_grouped_by_cause_and_one_cause_is_discarded_and_restored(stack_of: StackOf) -> None:
    async with stack_of(**APP, listeners=1, environment=FAILING) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(
            [Event.new("order", {"sku": f"tae{n}"}, id=f"o{n}") for n in range(3)]
            + [Event.new("order", {"sku": "coffee"}, id="c1"), Event.new("order", {"sku": "x"}, id="c2")]
        )
        await dead_letters(stack, 5)
        where = ("--data", str(stack.data))
        status, out, _ = await oncecast("dead-letters", "causes", *where, "--json")
        largest, *others = map(json.loads, out.splitlines())
        assert (status, largest["error"], largest["dead_letters"], largest["types"]) == (
            0,
            "KeyError: '#'",
            3,
            ["order"],
        )
        assert sorted(cause["error"] for cause in others) == ["KeyError: 'coffee'", "KeyError: 'x'"]
        by_cause = ("--cause", largest["cause"])

        discard = ("dead-letters", "discard", *by_cause, *where)
        status, out, _ = await oncecast(*discard, "--dry-run", "--json")
        assert (status, json.loads(out)["would_discard"]) == (0, 3)
        status, _, error = await oncecast(*discard)
        assert (status, "3 dead letters would be discarded: say --yes" in error) == (1, True)
        await dead_letters(stack, 5)
        status, out, _ = await oncecast(*discard, "--yes", "--no-json")
        assert (status, out.startswith("3 dead letters discarded;")) == (0, True)
        assert {dead_letter["id"] for dead_letter in await dead_letters(stack, 2)} == {"c1", "c2"}
        assert len(await dead_letters(stack, 3, discarded="true")) == 3
        assert await rows(stack, "select count(*) from oncecast.events where status = 'dead'") == [(5,)]
        status, out, _ = await oncecast("dead-letters", "replay", "o1", *where)
        assert (status, "it was discarded; restored, it can be replayed" in out) == (1, True)

        status, out, _ = await oncecast("dead-letters", "restore", "o1", *where, "--json")
        assert (status, json.loads(out)["restored"]) == (0, 1)
        status, _, error = await oncecast("dead-letters", "restore", "o1", *where, "--no-json")
        assert (status, "o1: it is not discarded" in error) == (1, True)
        status, out, _ = await oncecast("dead-letters", "restore", "--all", *where, "--json")
        assert (status, json.loads(out)["restored"]) == (0, 2)
        assert len(await dead_letters(stack, 5)) == 5


async def test_what_is_exported_can_be_sent_again_as_it_was_received(stack_of: StackOf, tmp_path: Path) -> None:
    async with (
        stack_of(listeners=1, environment=FAILING) as stack,
        httpx2.AsyncClient() as client,
    ):
        events = b"".join(
            b'{"specversion": "1.0", "id": "f%d", "source": "/s", "type": "oncecast.failing",'
            b' "data": {"fails": true, "n": 1.50, "big": 12345678901234567890}}\n' % n
            for n in range(120)
        )
        headers = {"content-type": "application/x-ndjson"}
        (await client.post(f"{stack.publish_url}/events", content=events, headers=headers)).raise_for_status()
        await dead_letters(stack, 120, limit=1000)
        where = ("--data", str(stack.data))
        edit = ("dead-letters", "edit", "f7", "--with", '{"fails": 1}', *where)
        assert (await oncecast(*edit))[0] == 0
        status, out, _ = await oncecast("dead-letters", "export", *where)
        exported = [json.loads(line) for line in out.splitlines()]
        assert (status, sorted(dead_letter["id"] for dead_letter in exported)) == (
            0,
            sorted(f"f{n}" for n in range(120)),
        )
        edited = next(dead_letter for dead_letter in exported if dead_letter["id"] == "f7")
        assert (edited["edited_data"], edited["event"]["data"]["n"]) == ({"fails": 1}, 1.5)
        assert {"error", "trace", "attempts", "listener", "died_at", "cause"} <= set(edited)
        assert out.count('"n":1.50,"big":12345678901234567890') == 120

        file = tmp_path / "events.ndjson"
        status, out, error = await oncecast(
            "dead-letters", "export", "f7", "f8", "--events", "--output", str(file), *where
        )
        assert (status, out, "2 dead letters written" in error) == (0, "", True)
        assert file.stat().st_mode & 0o777 == 0o600
        assert {line for line in file.read_text().splitlines() if '"f8"' in line} == {
            '{"specversion":"1.0","id":"f8","source":"/s","type":"oncecast.failing",'
            '"data":{"fails":true,"n":1.50,"big":12345678901234567890}}'
        }
        assert '"data":{"fails":1}' in file.read_text()
        status, out, _ = await oncecast("send", str(file), *where, "--json")
        assert (status, json.loads(out)["accepted"]) == (0, 2)
        status, _, error = await oncecast("dead-letters", "export", "--output", "/nowhere/x", *where)
        assert (status, "--output: cannot write in '/nowhere'" in error) == (1, True)


async def test_an_editor_opens_with_the_data_as_it_is_and_what_is_wrong_is_not_stored(
    stack_of: StackOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stack_of(listeners=1, environment=FAILING) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("oncecast.failing", {"fails": True, "why": "ü"}, id="f1"))
        await dead_letters(stack, 1)
        edit = ("dead-letters", "edit", "f1", "--data", str(stack.data), "--no-json")

        async def with_editor(command: str) -> tuple[int, str, str]:
            editor = tmp_path / "editor"
            editor.write_text(f"#!/bin/sh\n{command}\n")
            editor.chmod(0o755)
            monkeypatch.setenv("EDITOR", str(editor))
            return await oncecast(*edit)

        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.delenv("EDITOR", raising=False)
        status, _, error = await oncecast(*edit)
        assert (status, "set EDITOR" in error) == (1, True)
        status, out, _ = await with_editor(f"cp $1 {tmp_path}/seen; echo >> $1")
        assert (status, out) == (0, "f1 is unchanged.\n")
        assert (tmp_path / "seen").read_text() == '{\n  "fails": true,\n  "why": "ü"\n}\n'
        status, _, error = await with_editor("printf '{\\n  \"fails\": }' > $1")
        assert (status, "nothing is stored: this is not JSON: invalid character, line 2, column 12" in error) == (
            1,
            True,
        )
        kept = Path(error.partition("--file ")[2].strip().removesuffix("'"))
        assert kept.read_text() == '{\n  "fails": }'
        kept.unlink()
        status, _, error = await with_editor("exit 3")
        assert (status, "ended with status 3" in error) == (1, True)
        Path(error.rpartition(" is in ")[2].strip()).unlink()
        assert (await dead_letters(stack, 1))[0]["edited"] is False

        status, out, _ = await with_editor("""echo '{"fails": false}' > $1""")
        assert (status, out.startswith("f1 is edited;")) == (0, True)
        status, out, _ = await oncecast("dead-letters", "show", "f1", "--data", str(stack.data), "--no-json")
        assert ('"fails": true' in out, "edited    {" in out, '"fails": false' in out) == (True, True, True)
        status, out, _ = await oncecast(*edit, "--reset")
        assert (status, out.startswith("f1 is as it was received;")) == (0, True)
        assert (await dead_letters(stack, 1))[0]["edited"] is False
        good = tmp_path / "good.json"
        good.write_text('{"fails": false}')
        assert (await oncecast(*edit, "--file", str(good)))[0] == 0
        assert (await dead_letters(stack, 1))[0]["edited"] is True


async def test_a_replay_that_is_interrupted_says_what_was_done(stack_of: StackOf) -> None:
    async with stack_of(listeners=1, environment=FAILING) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(
            [Event.new("oncecast.failing", {"fails": True}, id=f"f{n:02}") for n in range(12)]
        )
        await dead_letters(stack, 12)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "oncecast", "dead-letters", "replay", "--all", "--rate", "2/m", "--json"),
            *("--data", str(stack.data)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=interrupts_count,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            first = json.loads(await process.stdout.readline())
            process.send_signal(signal.SIGINT)
            out, error = await process.communicate()
        assert (first["outcome"], process.returncode, error) == ("failed", 130, b"oncecast: interrupted\n")
        summary = json.loads(out)
        assert summary == {
            "asked": 12, "stored": 0, "failed": 1, "not_dead": 0, "unknown": 0, "stopped": "interrupted",
        }  # fmt: skip
        attempts = await rows(stack, "select id from oncecast.dead_letters where attempts > 3")
        assert attempts == [(first["id"],)]


async def test_a_replay_runs_the_handler_once_however_often_it_is_asked_for(stack_of: StackOf) -> None:
    """The application's effects are counted, and both listeners are asked at the same time."""
    async with stack_of(**APP, environment=FAILING) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(
            [Event.new("order", {"sku": "tae"}, id=f"o{n}", source="/shop") for n in range(5)]
        )
        await dead_letters(stack, 5)
        for n in range(5):
            async with httpx2.AsyncClient(timeout=20) as client:
                url = f"{stack.listener_urls['listener-b']}/api/dead-letters/o{n}"
                assert (await client.put(url, content=b'{"sku": "tea"}')).json()["edited"] is True
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
        httpx2.AsyncClient(base_url=stack.listener_urls["listener-a"]) as client,
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
        httpx2.AsyncClient(base_url=stack.listener_urls["listener-a"]) as client,
    ):
        await publisher.publish_many([Event.new("tick", 1, id="a/b", source=source) for source in ("/x", "/y")])
        await drained(stack)
        assert (await client.get("/api/events/a%2Fb")).status_code == 409
        found = (await client.get("/api/events/a%2Fb", params={"source": "/y"})).json()
        assert (found["event"]["source"], found["status"], found["stale"]) == ("/y", "stored", False)
        assert (await client.get("/api/events/none")).status_code == 404


async def relayed_by_selection(publisher: Publisher, client: httpx2.AsyncClient) -> bool:
    """All dead letters of a type are counted, discarded, restored, edited, reset and replayed through the
    producer."""
    await publisher.publish_many([Event.new("oncecast.failing", {"fails": True}, id=f"many{n}") for n in range(5)])
    chosen = {"type": "oncecast.*", "since": "1h"}

    async def counted(**query: Any) -> int:
        answer = await client.get("/api/dead-letter-causes", params={**chosen, **query})
        return answer.json()["dead_letters"]  # type: ignore[no-any-return]

    async def all_are_dead() -> bool:
        return await counted() == 5

    async def post(what: str, **body: Any) -> dict[str, Any]:
        answer = await client.post(f"/api/dead-letters/{what}", json={"select": chosen, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    await until(all_are_dead)
    first = await post("discard", limit=3)
    assert (first["done"], first["not_done"], await counted(), await counted(discarded="true")) == (3, [], 2, 3)
    second = await post("discard", limit=3, after=first["next"])
    assert (second["done"], second["next"], await counted()) == (2, None, 0)
    assert (await post("restore"))["done"] == 5
    assert (await client.put("/api/dead-letters/many1", content=b"1")).json()["edited_data"] == 1
    assert (await post("reset"))["done"] == 5
    assert (await client.get("/api/dead-letters/many1")).json()["edited"] is False
    tried, mark = [], None
    for _ in range(3):
        answer = await post("replay", limit=2, after=mark)
        tried += [result["id"] for result in answer["results"]]
        assert {result["outcome"] for result in answer["results"]} == {"failed"}
        mark = answer["next"]
    assert (sorted(tried), mark) == ([f"many{n}" for n in range(5)], None)
    for wrong in (
        {},
        {"select": None},
        {"select": {}, "events": [{"id": "a"}]},
        {"events": [{"id": "a"}], "limit": 1},
        {"select": {"since": "yesterday"}},
        {"select": {"discarded": True}},
        {"select": {}, "limit": 0},
        {"select": {"colour": "red"}},
    ):
        assert (await client.post("/api/dead-letters/discard", json=wrong)).status_code == 422, wrong
    for query in ({"since": "x"}, {"cause": "x"}, {"discarded": "maybe"}, {"whole": "1"}, {"limit": 0}):
        assert (await client.get("/api/dead-letters", params=query)).status_code == 400, query
    return True


async def test_the_producer_relays_an_operators_requests_to_a_live_listener(stack_of: StackOf) -> None:
    async with (
        stack_of(environment=FAILING) as stack,
        Publisher(stack.publish_url) as publisher,
        httpx2.AsyncClient(base_url=stack.publish_url, timeout=30) as client,
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
        assert (await client.put(path, content=b'{"fails": false}')).json()["edited_data"] == {"fails": False}
        body = {"events": [{"id": "a/ü?b"}]}
        answer = await client.post("/api/dead-letters/replay", json=body)
        assert [result["outcome"] for result in answer.json()["results"]] == ["stored"]
        assert await relayed_by_selection(publisher, client)
        missing = await client.get(path)
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        assert (await client.get("/api/dead-letters", params={"limit": "x"})).status_code == 400
        assert (await client.get("/api/dead-letters", params={"group": "other"})).status_code == 404
        assert (await client.get("/api/dead-letters/../gaps")).status_code == 404
        await stack.kill("listener-b")

        async def nobody_is_left() -> bool:
            return (await client.get("/api/dead-letters")).status_code == 503

        await until(nobody_is_left)


async def test_a_listener_that_is_killed_during_a_request_is_reported_as_not_responding(stack_of: StackOf) -> None:
    app = {"app": "tests.support.counting:app", "app_dir": Path(__file__).parents[2]}
    async with (
        stack_of(
            **app, listeners=1, environment={**FAILING, "HANDLER_TIMEOUT": "1s", "EVENT_ATTEMPTS": "1"}
        ) as stack,
        Publisher(stack.publish_url) as publisher,
        httpx2.AsyncClient(base_url=stack.publish_url, timeout=30) as client,
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
