"""PostgreSQL is down, is frozen, loses its answers, or refuses one row.

The numbers are those of the list of faults in docs/explanation/verification.md.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psycopg
import pytest

from oncecast import Event, Publisher
from oncecast.chaos.application import EFFECTS
from oncecast.chaos.system import running
from oncecast.embedded import Stack
from tests.support.counting_stack import stop_and_start
from tests.support.judge import acknowledged, judge, publishing
from tests.support.stacks import StackOf, drained, rows, until

OUTAGE_S = 30.0
"""Longer than all database retries: the system must pause and recover."""


async def test_postgresql_is_stopped_for_30_s_while_events_are_sent(stack: Stack) -> None:
    """10."""
    async with publishing(stack) as publications:
        await stop_and_start(stack, publications, "postgres", OUTAGE_S)
    await judge(stack, publications)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="who PostgreSQL's sessions are is asked of Linux")
async def test_postgresql_is_frozen_with_all_its_sessions_while_events_are_sent(stack: Stack) -> None:
    """13."""
    async with publishing(stack) as publications:
        await acknowledged(publications, 200)
        postmaster = stack.processes["postgres"].pid
        assert postmaster is not None
        sessions = [int(pid) for pid in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()]
        for pid in (*sessions, postmaster):
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(10.0)
        for pid in (postmaster, *sessions):
            os.kill(pid, signal.SIGCONT)
        await acknowledged(publications, 200)
    await judge(stack, publications)


async def test_when_the_answer_to_commit_is_lost_the_row_is_looked_up(tmp_path: Path) -> None:
    """11, 12. Each confirming answer is lost, and still each event ends once."""
    async with running(tmp_path / "stack", listeners=2, producers=1, temporary=True) as system:
        async with await psycopg.AsyncConnection.connect(system.stack.database_url, autocommit=True) as connection:
            await connection.execute(EFFECTS)
        await drained(system.stack)  # both have connected, which confirms a statement too
        for name in ("listener-a>postgres", "listener-b>postgres"):
            system.links[name].inject("drop", "both")
        async with Publisher(system.stack.publish_url) as publisher:
            await publisher.publish_many([Event.new("tick", id=f"tick:{n}") for n in range(300)])
            await publisher.publish_many([Event.new("counted", id=f"counted:{n}") for n in range(20)])

        async def all_are_stored() -> bool:
            return await rows(system.stack, "select status, count(*) from chaos.events group by 1") == [
                ("stored", 320)
            ]

        await until(all_are_stored, within_s=60)
        for link in system.links.values():
            link.clear()
        await drained(system.stack)
        assert await rows(system.stack, "select count(*), max(count) from public.effects") == [(20, 1)]
        assert await rows(system.stack, "select count(*) from chaos.dead_letters") == [(0,)]


async def test_one_bad_row_of_500_is_dead_and_the_other_499_are_stored(stack: Stack) -> None:
    """14."""
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        await connection.execute("alter table oncecast.events add check (id <> 'bad' or status = 'dead')")
    async with Publisher(stack.publish_url) as publisher:
        ids = [f"good-{n}" for n in range(499)]
        ids.insert(250, "bad")
        await publisher.publish_many([Event.new("tick", id=id_) for id_ in ids])

    async def all_have_ended() -> object:
        found = await rows(stack, "select status, count(*) from oncecast.events group by 1 order by 1")
        return found if sum(count for _, count in found) == 500 else None

    assert await until(all_have_ended) == [("dead", 1), ("stored", 499)]
    assert await rows(stack, "select id from oncecast.dead_letters") == [("bad",)]


async def test_an_event_that_always_deadlocks_becomes_a_dead_letter_and_the_rest_continues(stack_of: StackOf) -> None:
    """15. The probe succeeds throughout."""
    application = {"app": "tests.support.serialisation:app", "app_dir": Path(__file__).parents[2]}
    quick = {
        "DB_ERRORS_PER_EVENT_MAX": "3",
        "DB_RETRY_DELAY": "50ms",
        "PROBE_INTERVAL": "50ms",
        "EVENT_RETRY_DELAY": "50ms",
    }
    async with stack_of(**application, environment=quick) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("conflicting", id="always"))

        async def others_go_on() -> object:
            await publisher.publish(Event.new("tick"))
            return await rows(stack, "select error from oncecast.dead_letters where id = 'always'")

        ((error,),) = await until(others_go_on)
        assert "could not serialize" in error
        await drained(stack)
        assert await rows(stack, "select count(*) from oncecast.events where status = 'dead'") == [(1,)]
