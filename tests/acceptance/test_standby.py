"""One application per group: a listener without the group's handlers ends nothing, and says so."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from oncecast.embedded.ports import free_port
from tests.support.stacks import StackOf, drained, rows, until

APP = {"app": "tests.support.correctable:app", "app_dir": Path(__file__).parents[2]}


@asynccontextmanager
async def another_listener(stack: Stack, folder: Path, *app: str, **environment: str) -> AsyncIterator[str]:
    """A listener of the stack's group, run by hand; its address."""
    folder.mkdir()
    port = free_port()
    log = (folder / "output.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "oncecast",
        "listener",
        *app,
        cwd=folder,
        env={
            **os.environ,
            "INSTANCE_ID": folder.name,
            "PORT": str(port),
            "WS_URL": stack.publish_url.replace("http", "ws"),
            "DATABASE_URL": stack.database_url,
            "REDIS_URL": stack.redis_url,
            **environment,
        },
        stdout=log,
        stderr=asyncio.subprocess.STDOUT,
    )
    log.close()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(120):
            assert await process.wait() == 0
        assert "Traceback" not in (folder / "output.log").read_text()


async def health(address: str) -> dict[str, object]:
    async with httpx2.AsyncClient(timeout=5) as client:
        try:
            return (await client.get(f"{address}/readyz")).json()  # type: ignore[no-any-return]
        except httpx2.RequestError:
            return {}


async def test_a_listener_that_lacks_a_handler_of_its_group_is_on_standby(stack_of: StackOf, tmp_path: Path) -> None:
    async with stack_of(**APP, listeners=1) as stack, Publisher(stack.publish_url) as publisher:
        async with another_listener(stack, tmp_path / "bare") as address:

            async def stands_by() -> bool:
                return (await health(address)).get("on_standby") is not None

            await until(stands_by)
            reason = (await health(address))["on_standby"]
            assert reason == "the group's application handles order, and this one does not"
            assert f"Standby in bare: {reason}" in (tmp_path / "bare" / "output.log").read_text()
            await stack.stop("listener-a")
            await publisher.publish_many([Event.new("order", {"sku": "tea"}), Event.new("tick")])
            async with httpx2.AsyncClient(base_url=address) as client:
                answer = await client.post("/api/dead-letters/replay", json={"events": [{"id": "x"}]})
                assert answer.status_code == 503
                assert (await client.get("/api/events")).json()["events"] == []
            assert await rows(stack, "select count(*) from oncecast.events") == [(0,)]
            await stack.start("listener-a")
            await drained(stack)
        assert await rows(stack, "select count(*) from public.reserved") == [(1,)]


async def test_a_listener_yields_to_an_application_with_more_handlers_and_returns_with_force_handlers(
    stack_of: StackOf, tmp_path: Path
) -> None:
    async with stack_of(listeners=1) as stack, Publisher(stack.publish_url) as publisher:
        await publisher.publish(Event.new("tick"))
        await drained(stack)
        app = ("tests.support.correctable:app", "--app-dir", str(APP["app_dir"]))
        old = stack.listener_urls["listener-a"]
        async with another_listener(stack, tmp_path / "new", *app):

            async def gave_way() -> bool:
                return str((await health(old)).get("reason")).startswith("on standby: ")

            await until(gave_way)
            orders = [Event.new("order", {"sku": "tea"}, id=f"o{n}") for n in range(50)]
            await publisher.publish_many(orders)

            async def all_are_stored() -> bool:
                return await rows(stack, "select count(*) from oncecast.events") == [(51,)]

            await until(all_are_stored)
            assert await rows(stack, "select count(*), sum(count) from public.reserved") == [(50, 50)]
        assert (await health(old))["status"] == "down"
        await stack.stop("listener-a")
        await stack.start("listener-a")  # a stack sets FORCE_HANDLERS=1
        await publisher.publish(Event.new("order", {"sku": "tea"}, id="unhandled"))
        await drained(stack)
        assert await rows(stack, "select count(*) from oncecast.events") == [(52,)]
