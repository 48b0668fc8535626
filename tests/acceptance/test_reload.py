"""`--reload`: what is saved in an editor runs a moment later, and nothing that is wrong with it ends anything."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from oncecast import Event, Publisher
from oncecast.embedded import Stack
from oncecast.embedded.ports import free_port
from tests.support.stacks import StackOf, until

APP = """
import asyncio
from oncecast import App, Event, Transaction
app = App("shop")

@app.on("order")
async def on_order(event: Event, tx: Transaction) -> None:
    await tx.execute("insert into public.handled values (%s, %s)", (event.id, "first"))
"""
ANOTHER = """
@app.on("payment")
async def on_payment(event: Event, tx: Transaction) -> None:
    await tx.execute("insert into public.handled values (%s, %s)", (event.id, "payment"))
"""
TABLE = "create table public.handled (id text, how text)"


@dataclass
class Running:
    """A command in a folder with `shop.py`; `said` is what its stderr and stdout hold so far."""

    process: asyncio.subprocess.Process
    folder: Path

    def save(self, code: str) -> None:
        (self.folder / "shop.py").write_text(code)

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    async def says(self, text: str, times: int = 1) -> None:
        async def it_does() -> bool:
            assert self.process.returncode is None, self.said
            return self.said.count(text) >= times

        await until(it_does)

    async def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()


@asynccontextmanager
async def running(folder: Path, code: str, *arguments: str, **environment: str) -> AsyncIterator[Running]:
    folder.mkdir()
    (folder / "shop.py").write_text(code)
    with (folder / "said").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "oncecast", *arguments, "--reload"),
            cwd=folder,
            env={**os.environ, **environment},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    command = Running(process, folder)
    try:
        yield command
        assert "Traceback" not in command.said
    finally:
        if process.returncode is None:
            await command.end(signal.SIGTERM)


def up(folder: Path, code: str) -> Any:
    return running(folder, code, "up", "--app", "shop:app", "--port", "0", "--listener-port", "0", "--json")


async def addresses(command: Running) -> dict[str, str]:
    await command.says('"listener-b"')
    lines = [json.loads(line) for line in command.said.splitlines() if line.startswith("{")]
    return {line["name"]: line["address"] for line in lines}


async def asked(url: str, query: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(query)
        return await cursor.fetchall() if cursor.description else []


async def handled(url: str, id: str) -> str:
    """How the event was handled, once it was."""

    async def found() -> list[tuple[Any, ...]]:
        return await asked(url, f"select how from public.handled where id = '{id}'")

    [(how,)] = await until(found)
    return str(how)


async def test_what_is_saved_runs_a_moment_later_with_more_handlers_or_fewer(tmp_path: Path) -> None:
    async with up(tmp_path / "shop", APP) as command:
        producer = (await addresses(command))["producer"]
        database = (command.folder / ".oncecast" / "postgres.url").read_text()
        await asked(database, TABLE)
        async with Publisher(producer) as publisher:
            await publisher.publish(Event.new("order", id="o1"))
            assert await handled(database, "o1") == "first"
            command.save(APP.replace("first", "again") + ANOTHER)
            await command.says("✅ shop:app restarted")
            await publisher.publish_many([Event.new("order", id="o2"), Event.new("payment", id="p2")])
            assert [await handled(database, id) for id in ("o2", "p2")] == ["again", "payment"]
            command.save(APP.replace("first", "third"))  # without a handler that the group has had
            await command.says("✅ shop:app restarted", 2)
            await publisher.publish(Event.new("order", id="o3"))
            assert await handled(database, "o3") == "third"
        assert await command.end() == 0
    assert command.said.count("🔄 shop.py changed") == 2


async def test_broken_code_is_reported_by_line_and_the_old_code_runs_until_it_is_fixed(tmp_path: Path) -> None:
    async with up(tmp_path / "shop", APP) as command:
        found = await addresses(command)
        database = (command.folder / ".oncecast" / "postgres.url").read_text()
        await asked(database, TABLE)
        async with Publisher(found["producer"]) as publisher:
            command.save(APP + "def broken(:\n")
            await command.says("❌ shop.py:9: SyntaxError: invalid syntax\nwaiting for the next change")
            await publisher.publish(Event.new("order", id="o1"))
            assert await handled(database, "o1") == "first"
            command.save(APP + "print(undefined)\n")
            await command.says(
                "❌ shop.py:9: NameError: name 'undefined' is not defined\nwaiting for the next change"
            )
            command.save(APP.replace("first", "fixed"))
            await command.says("✅ shop:app restarted")
            await publisher.publish(Event.new("order", id="o2"))
            assert await handled(database, "o2") == "fixed"
        assert await command.end() == 0


async def test_up_waits_for_code_that_is_broken_from_the_beginning(tmp_path: Path) -> None:
    async with up(tmp_path / "shop", "from oncecast import App\nraise LookupError('no stock')\n") as command:
        await command.says("❌ shop.py:2: LookupError: no stock\nwaiting for the next change")
        assert not (command.folder / ".oncecast").exists()
        command.save(APP)
        await addresses(command)
        assert await command.end() == 0


@asynccontextmanager
async def listener(stack: Stack, folder: Path, code: str) -> AsyncIterator[tuple[Running, str]]:
    """`oncecast listener shop:app --reload` for a stack that has none of that group; and its address."""
    address = f"http://127.0.0.1:{free_port()}"
    async with running(
        folder,
        code,
        *("listener", "shop:app", f"--port={address.rpartition(':')[2]}"),
        WS_URL=stack.publish_url.replace("http", "ws"),
        DATABASE_URL=stack.database_url,
        REDIS_URL=stack.redis_url,
        INSTANCE_ID="shop-1",
    ) as command:
        yield command, address


async def is_gone(address: str) -> bool:
    async with httpx2.AsyncClient() as client:
        try:
            await client.get(f"{address}/livez")
        except httpx2.ConnectError:
            return True
        except httpx2.TransportError:
            return False  # it ended during the response: the next request is refused
        return False


async def test_a_reloaded_listener_finishes_its_events_before_it_restarts(stack_of: StackOf, tmp_path: Path) -> None:
    slow = APP.replace("    await tx", '    print("working", flush=True)\n    await asyncio.sleep(2)\n    await tx')
    async with stack_of(listeners=1) as stack, Publisher(stack.publish_url) as publisher:
        await asked(stack.database_url, TABLE)
        async with listener(stack, tmp_path / "shop", slow) as (command, address):
            await command.says("✅ Connected to producer in shop-1")
            await publisher.publish(Event.new("order", id="o1"))
            await command.says("working")
            command.save(APP.replace("first", "second"))
            await command.says("✅ Connected to producer in shop-1", 2)
            await publisher.publish(Event.new("order", id="o2"))
            assert await handled(stack.database_url, "o2") == "second"
            assert await asked(stack.database_url, "select how from public.handled where id = 'o1'") == [("first",)]
            assert await command.end() == 0
            assert await is_gone(address)
    assert command.said.index("Persisted o1") < command.said.index("Stopped in shop-1")


async def test_a_listener_that_ends_is_reported_and_restarts_after_the_next_change(
    stack_of: StackOf, tmp_path: Path
) -> None:
    async with stack_of(listeners=1) as stack:
        deadly = APP + "import threading, os\nthreading.Timer(2.0, os._exit, (9,)).start()\n"
        async with listener(stack, tmp_path / "shop", deadly) as (command, _):
            await command.says("the listener ended with status 9; it restarts after the next change")
            command.save(APP)
            await command.says("✅ Connected to producer in shop-1")
            assert await command.end() == 0


async def test_no_listener_outlives_the_command_that_reloads_it(stack_of: StackOf, tmp_path: Path) -> None:
    async with stack_of(listeners=1) as stack, listener(stack, tmp_path / "shop", APP) as (command, address):
        await command.says("✅ Connected to producer in shop-1")
        await command.end(signal.SIGKILL)
        await until(lambda: is_gone(address))


async def test_reload_without_an_application_says_what_it_needs(tmp_path: Path) -> None:
    for name, arguments in (("a", ("listener",)), ("b", ("up",))):
        async with running(tmp_path / name, APP, *arguments) as command:
            async with asyncio.timeout(120):
                assert await command.process.wait() == 1
            assert command.said.startswith("oncecast: --reload needs an application whose code may change")
