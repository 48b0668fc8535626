"""Stopping: what was begun is finished with all that it needs, and nothing new is begun."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx2

from oncecast.clock import SYSTEM_CLOCK
from oncecast.embedded.ports import free_port
from oncecast.stores.postgres import Database, PostgresEvents
from tests.acceptance.test_start import ended, said, starting
from tests.support.places import arrival
from tests.support.stacks import until

APP = """
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from oncecast import App, Event

class Shop:
    is_open = True

async def lifespan() -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    shop.is_open = False

app = App("shop", lifespan=lifespan)

@app.on("tick")
async def handler(event: Event, shop: Shop) -> None:
    print("handling", flush=True)
    while not Path("go").exists():
        await asyncio.sleep(0.02)
    assert shop.is_open
"""


ENDLESS = """
import asyncio
from oncecast import App, Event

app = App("shop")

@app.on("tick")
async def handler(event: Event) -> None:
    print("handling", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except BaseException:
            pass
"""


async def dead_letter(url: str, schema: str, *ids: str) -> None:
    database = Database(url, SYSTEM_CLOCK, schema=schema, instance="x", token="x")
    await database.open()
    await database.migrate()
    for offset, id_ in enumerate(ids, 1):
        await PostgresEvents(database).dead_letter(arrival(offset, id_), ValueError("no"))
    await database.close()


async def test_a_replay_that_is_under_way_finishes_before_the_lifespan_ends_and_no_other_begins(
    tmp_path: Path, postgres_url: str, schema: str
) -> None:
    await dead_letter(postgres_url, schema, "one", "two")
    (tmp_path / "shop.py").write_text(APP)
    port = free_port()
    environment = {
        "PORT": str(port),
        "DATABASE_URL": postgres_url,
        "LISTENER_GROUP": schema,
        "HANDLER_CONCURRENCY": "1",
    }
    async with (
        starting(tmp_path, "listener", "shop:app", **environment) as process,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):

        async def ready() -> bool:
            try:
                return bool((await client.get("/health")).json()["reason"] != "it is starting")
            except httpx2.TransportError:
                return False

        def replay(*ids: str) -> Any:
            return client.post("/api/dead-letters/replay", json={"events": [{"id": id_} for id_ in ids]})

        await until(ready)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(replay("one", "two"))
            await said(process, "handling")
            process.send_signal(signal.SIGTERM)
            await said(process, "Stopping")
            refused = await replay("two")
            (tmp_path / "go").touch()
        status, _, err = await ended(process)
    assert (status, err) == (0, [])
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json()["detail"] == "this listener does not work: it is stopping"
    one, two = first.result().json()["results"]
    assert (one["outcome"], one["error"]) == ("stored", None)
    assert (two["outcome"], two["error"]) == ("unknown", "this listener is stopping")


async def test_a_handler_that_never_ends_however_often_it_is_cancelled_does_not_keep_a_listener_from_stopping(
    tmp_path: Path, postgres_url: str, schema: str
) -> None:
    await dead_letter(postgres_url, schema, "one")
    (tmp_path / "shop.py").write_text(ENDLESS)
    port = free_port()
    environment = {
        "PORT": str(port),
        "DATABASE_URL": postgres_url,
        "LISTENER_GROUP": schema,
        "DRAIN_TIMEOUT": "200ms",
    }
    async with (
        starting(tmp_path, "listener", "shop:app", **environment) as process,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):

        async def replaying() -> bool:
            try:
                answer = await client.post("/api/dead-letters/replay", json={"events": [{"id": "one"}]})
            except httpx2.RemoteProtocolError:
                return True
            except httpx2.TransportError:
                return False  # it has not begun
            return answer.status_code == 200

        async with asyncio.TaskGroup() as group:
            group.create_task(until(replaying))
            await said(process, "handling")
            process.send_signal(signal.SIGTERM)
            status, out, err = await ended(process)
    assert (status, err) == (0, [])
    assert any("Stopped" in line for line in out)
