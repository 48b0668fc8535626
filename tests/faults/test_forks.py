"""A handler forks: its child uses no connection of the listener, and does not become a second listener."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from tests.support import forking
from tests.support.stacks import StackOf, drained, rows, until

APP = {"app": "tests.support.forking:app", "app_dir": Path(__file__).parents[2]}
STATUS_OF = {"sys.exit": 3, "os._exit": 3, "an exception": 1, "it returns": 0, "it awaits": 1, "it writes": 1}


@pytest.fixture
async def stack(stack_of: StackOf) -> AsyncIterator[Stack]:
    """Two listeners whose handlers fork."""
    async with stack_of(**APP) as running:
        async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as connection:
            await connection.execute(forking.TABLES)
        yield running


def ways() -> list[tuple[str, str, int]]:
    """The type of an event, how the child of its handler ends, and with which status."""
    plain = [("forks", end, status) for end, status in STATUS_OF.items()]
    in_a_task = [("forks.in-a-task", end, status) for end, status in STATUS_OF.items() if end != "sys.exit"]
    in_a_thread = [("forks.in-a-thread", end, STATUS_OF[end]) for end in ("sys.exit", "an exception", "it returns")]
    return [
        *plain,
        *[(type_, end, 1 if end != "os._exit" else 3) for type_, end, _ in in_a_task],
        ("forks.in-a-task", "sys.exit", 1),
        *in_a_thread,
        ("forks.in-a-thread", "it writes", 1),
        ("forks.in-an-executor", "it returns", 0),
        ("forks.by-multiprocessing", "it returns", 0),
        ("forks.and-terminates", "SIGTERM", -15),
        ("forks.by-subprocess", "it returns", 0),
        ("forks.by-subprocess", "sys.exit", -1),
    ]


async def test_effects_stay_exact_and_no_child_goes_on_however_the_children_of_handlers_end(stack: Stack) -> None:
    pids = {name: stack.processes[name].pid for name in stack.listener_urls}
    forks = [
        (Event.new(type_, {"end": end}, id=f"{type_} {end} {n}"), s) for type_, end, s in ways() for n in range(2)
    ]
    counted = [Event.new("counted", id=f"c{n}") for n in range(len(forks) * 8)]
    events = [event for n, (fork, _) in enumerate(forks) for event in (fork, *counted[8 * n : 8 * n + 8])]
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish_many(events)
        await drained(stack)
    assert await rows(stack, "select id, error from oncecast.dead_letters") == []
    assert await rows(stack, "select count(*), min(count), max(count) from public.effects") == [(len(events), 1, 1)]
    assert dict(await rows(stack, "select id, status from public.children")) == {e.id: status for e, status in forks}
    assert {name: stack.processes[name].pid for name in stack.listener_urls} == pids
    for name in pids:
        log = (stack.folder(name) / "output.log").read_text()
        for trouble in ("unavailable", "Disconnected", "DB insert failed", "Processing failed", "TakenOver"):
            assert trouble not in log, [line for line in log.splitlines() if trouble in line]


async def test_a_child_that_outlives_its_listener_keeps_neither_its_port_nor_its_sessions(
    stack: Stack, tmp_path: Path
) -> None:
    await stack.stop("listener-b")
    async with Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("forks.and-lives", {"until": str(tmp_path / "end")}, id="f"))
        try:
            await drained(stack)
            await stack.kill("listener-a")

            async def its_sessions_are_gone() -> bool:
                query = "select count(*) from pg_stat_activity where application_name like 'oncecast listener-a%'"
                return await rows(stack, query) == [(0,)]

            await until(its_sessions_are_gone, within_s=10)
            await stack.start("listener-a")
            await publisher.publish(Event.new("counted", id="c"))
            await drained(stack)
        finally:
            (tmp_path / "end").touch()
    assert await rows(stack, "select id, count from public.effects order by id") == [("c", 1), ("f", 1)]


ON_A_LOOP = """
import asyncio, sys, uvloop
from oncecast import Event
from oncecast.testing import TestListener
from tests.faults.test_forks import ways
from tests.support import forking

async def main():
    async with TestListener(forking.app, postgres=sys.argv[2]) as t:
        await t.execute("drop table if exists public.effects, public.children;" + forking.TABLES)
        expected = {}
        for type_, end, status in ways():
            result = await t.send(Event.new(type_, {"end": end}, id=f"{type_} {end}"))
            assert result.outcome == "stored" and result.attempts == 1, result
            expected[f"{type_} {end}"] = status
        found = {row["id"]: row["status"] for row in await t.fetch_all("select * from public.children")}
        assert found == expected, found
        assert {row["count"] for row in await t.fetch_all("select * from public.effects")} == {1}
    print("the parent is well")

factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[sys.argv[1]]
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_every_child_ends_where_its_handler_does_on_either_loop(loop: str, postgres_url: str) -> None:
    command = [sys.executable, "-c", ON_A_LOOP, loop, postgres_url]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
    assert run.stdout.splitlines() == ["the parent is well"], run.stderr
