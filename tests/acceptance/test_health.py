"""Every face tells the truth within three seconds, in the same words, with since when, why, and what to do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg import sql

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from oncecast.embedded.ports import free_port
from tests.acceptance.test_recovery import oncecast
from tests.acceptance.test_start import ended, said, starting
from tests.support.stacks import StackOf, until

WITHIN_S = 3.0
LISTENER = "listener-a"


async def get(address: str, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=5) as client:
        return await client.get(f"{address}{path}")


async def health(stack: Stack) -> dict[str, Any]:
    return dict((await get(stack.listener_urls[LISTENER], "/health")).json())


async def reported(stack: Stack) -> dict[str, Any]:
    """The listener as its producer shows it."""
    listeners = (await get(stack.publish_url, "/health")).json()["listeners"]
    return dict(listeners[0]) if listeners else {}


async def is_well(stack: Stack) -> None:
    async def well() -> bool:
        states = ((await health(stack))["status"], (await reported(stack)).get("status"))
        return states == ("ok", "ok")

    await until(well)


async def in_time(condition: Callable[[], Awaitable[Any]], began_s: float) -> Any:
    """Return the answer of `condition`, which must come within WITHIN_S of `began_s`."""
    answer = await until(condition, within_s=20.0)
    took_s = time.monotonic() - began_s
    assert took_s < WITHIN_S, f"{condition.__name__} after {took_s:.1f} s"
    return answer


def log(stack: Stack) -> str:
    return (stack.folder(LISTENER) / "output.log").read_text()


async def stopped(stack: Stack) -> Callable[[], Awaitable[None]]:
    await stack.stop("postgres")
    return lambda: stack.start("postgres")


async def frozen(stack: Stack) -> Callable[[], Awaitable[None]]:
    """All of its processes."""
    pids = await processes_of_postgres(stack)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    async def heal() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    return heal


async def processes_of_postgres(stack: Stack) -> list[int]:
    pid = stack.processes["postgres"].pid
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        cursor = await connection.execute("select pid from pg_stat_activity where pid <> pg_backend_pid()")
        return [pid or 0, *(pid for (pid,) in await cursor.fetchall())]


async def locked_out(stack: Stack) -> Callable[[], Awaitable[None]]:
    """Change the password and end all connections; return a function that undoes it."""
    connection = await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True)
    role = sql.Identifier(connection.info.user)
    change = sql.SQL("alter role {} password {}")
    await connection.execute(change.format(role, "another one"))
    await connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")

    async def heal() -> None:
        await connection.execute(change.format(role, connection.info.password))
        await connection.close()

    return heal


@pytest.mark.parametrize("break_it", [stopped, frozen, locked_out])
@pytest.mark.parametrize("traffic", ["idle", "under load"])
async def test_a_postgresql_that_cannot_be_used_is_seen_everywhere_in_time_and_so_is_its_return(
    break_it: Callable[[Stack], Awaitable[Callable[[], Awaitable[None]]]], traffic: str, stack_of: StackOf
) -> None:
    async with stack_of(listeners=1) as stack, asyncio.TaskGroup() as group:
        await is_well(stack)
        load = group.create_task(publish(stack)) if traffic != "idle" else None
        if load is not None:
            await until(lambda: stored(stack))
        said = len(log(stack))
        heal = await break_it(stack)
        began_s = time.monotonic()
        address = stack.listener_urls[LISTENER]

        async def down() -> dict[str, Any] | None:
            found = await health(stack)
            return found if found["status"] == "down" else None

        found = await in_time(down, began_s)
        assert found["parts"]["database"]["status"] == "down"
        assert found["reason"].startswith("database: PostgreSQL: ")
        assert "DATABASE_URL" in found["remedy"]
        assert abs((datetime.now(UTC) - datetime.fromisoformat(found["since"])).total_seconds()) < WITHIN_S
        answer = await get(address, "/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "down")
        assert (await get(address, "/livez")).status_code == 200
        metrics = (await get(address, "/metrics")).text
        assert 'oncecast_dependency_up{dependency="database"} 0.0' in metrics
        assert 'oncecast_health{status="down"} 1.0' in metrics

        async def seen_by_producer() -> bool:
            return bool((await reported(stack))["status"] == "down")

        await until(seen_by_producer, within_s=WITHIN_S)
        status, out, _ = await oncecast("status", "--listener", address, "--json")
        assert (status, json.loads(out)["state"]) == (2, "down")
        news = [line for line in log(stack)[said:].splitlines() if re.search(" (WARNING|ERROR) ", line)]
        assert "PostgreSQL" in news[0], news[0]
        assert "outbox" not in "".join(news)
        if load is not None:
            load.cancel()
        await heal()
        await is_well(stack)
        assert (await get(address, "/readyz")).status_code == 200

        async def back() -> bool:
            return "✅ PostgreSQL ready in listener-a" in log(stack)[said:]

        await until(back)


async def publish(stack: Stack) -> None:
    async with Publisher(stack.publish_url) as publisher:
        while True:
            await publisher.publish(Event.new("tick"))


async def stored(stack: Stack) -> bool:
    return int((await health(stack))["stored"]) > 0


@pytest.mark.parametrize("how", ["stop", "pause"])
async def test_a_redis_that_is_away_makes_a_listener_degraded_and_ready(how: str, stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        await is_well(stack)
        if how == "stop":
            await stack.stop("valkey")
        else:
            stack.pause("valkey")
        began_s = time.monotonic()

        async def degraded() -> dict[str, Any] | None:
            found = await health(stack)
            return found if found["status"] == "degraded" else None

        found = await in_time(degraded, began_s)
        assert found["parts"]["redis"]["status"] == "down"
        assert "REDIS_URL" in found["remedy"]
        assert (await get(stack.listener_urls[LISTENER], "/readyz")).status_code == 200
        metrics = (await get(stack.listener_urls[LISTENER], "/metrics")).text
        assert 'oncecast_dependency_up{dependency="redis"} 0.0' in metrics
        await (stack.start("valkey") if how == "stop" else resumed(stack, "valkey"))
        await is_well(stack)


async def resumed(stack: Stack, name: str) -> None:
    stack.resume(name)


async def test_a_listener_without_its_producer_is_degraded(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        await is_well(stack)
        await stack.stop("producer")
        began_s = time.monotonic()

        async def degraded() -> dict[str, Any] | None:
            found = await health(stack)
            return found if found["status"] == "degraded" else None

        found = await in_time(degraded, began_s)
        assert found["reason"].startswith("producers: 1 of 1 not connected: ")
        assert "WS_URL" in found["remedy"]


async def test_a_listener_that_says_nothing_any_more_is_down_to_its_producer(stack_of: StackOf) -> None:
    async with stack_of(listeners=1) as stack:
        await is_well(stack)
        stack.pause(LISTENER)
        began_s = time.monotonic() + 0.5

        async def silent() -> dict[str, Any] | None:
            found = await reported(stack)
            return found if found["status"] == "down" else None

        found = await in_time(silent, began_s)
        assert re.match(r"no report for \d s", found["reason"])
        stack.resume(LISTENER)
        await is_well(stack)


async def test_a_producer_whose_journal_is_full_is_down_and_says_who_holds_it_back(stack_of: StackOf) -> None:
    environment = {"JOURNAL_MAX_BYTES": "64KiB"}
    async with stack_of(listeners=1, environment=environment) as stack, httpx2.AsyncClient() as client:
        await is_well(stack)
        await stack.stop(LISTENER)
        events = [{"type": "tick", "data": "x" * 1000} for _ in range(20)]
        while (await client.post(f"{stack.publish_url}/events", json=events)).status_code == 202:
            pass
        answer = await get(stack.publish_url, "/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "down")
        found = (await get(stack.publish_url, "/health")).json()
        assert found["reason"].startswith("journal: the journal is full: ")
        assert "oncecast groups" in found["remedy"]
        metrics = (await get(stack.publish_url, "/metrics")).text
        assert 'oncecast_dependency_up{dependency="journal"} 0.0' in metrics
        status, out, _ = await oncecast("status", "--producer", stack.publish_url, "--no-json")
        assert status == 2
        assert "the journal is full" in " ".join(out.split())
        await stack.stop("producer")
        await stack.start("producer")  # a full journal keeps no stack from starting
        assert (await get(stack.publish_url, "/readyz")).status_code == 503
        await stack.start(LISTENER)

        async def ready() -> bool:
            return (await get(stack.publish_url, "/readyz")).status_code == 200

        await until(ready)


DRAINING = """
import asyncio
from oncecast import App, Event

app = App("shop")

@app.on("slow")
async def slow(event: Event) -> None:
    print("handling", flush=True)
    await asyncio.sleep(5)
"""


async def test_a_listener_that_drains_says_so_and_is_not_ready(stack_of: StackOf, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(DRAINING)
    async with stack_of(listeners=1, app="shop:app", app_dir=tmp_path) as stack:
        await is_well(stack)
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish(Event.new("slow"))

        async def handling() -> bool:
            return "handling" in log(stack)

        await until(handling)
        stopping = asyncio.create_task(stack.stop(LISTENER))

        async def draining() -> dict[str, Any] | None:
            answer = await get(stack.listener_urls[LISTENER], "/readyz")
            return answer.json() if answer.status_code == 503 else None

        found = await in_time(draining, time.monotonic())
        assert found["status"] == "draining"
        metrics = (await get(stack.listener_urls[LISTENER], "/metrics")).text
        assert 'oncecast_health{status="draining"} 1.0' in metrics
        await stopping


async def test_a_listener_that_cannot_start_for_want_of_its_database_says_so(tmp_path: Path) -> None:
    port, url = free_port(), f"postgres://127.0.0.1:{free_port()}/db"
    environment = {"PORT": str(port), "DATABASE_URL": url, "DB_CONNECT_ATTEMPTS": "1000", "DB_CONNECT_DELAY": "1h"}
    async with starting(tmp_path, "listener", **environment) as process:
        await said(process, "Cannot start it yet")
        began_s = time.monotonic()
        answer = await get(f"http://127.0.0.1:{port}", "/readyz")
        assert time.monotonic() - began_s < WITHIN_S
        found = answer.json()
        assert (answer.status_code, found["status"]) == (503, "down")
        assert found["reason"].startswith("it is starting: PostgreSQL: ")
        assert "DATABASE_URL" in found["remedy"]
        process.send_signal(signal.SIGTERM)
        status, _, err = await ended(process)
    assert (status, err) == (0, [])
