"""A shell in a folder, with a stack started by `oncecast up`; runs examples as their docstrings say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.support.shown import addressed

ROOT = Path(__file__).parents[2]
BEGIN_DEADLINE_S = 120
COMMAND_DEADLINE_S = 90


class Terminal:
    """A shell in `folder`. The usual addresses in what is typed are those of the stack that runs there.

    It is a `RunningStack` for `tests.support.stacks`.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "XDG_RUNTIME_DIR": str(folder), **environment}
        self.publish_urls: list[str] = []
        self.listener_urls: dict[str, str] = {}
        self.processes: dict[str, Any] = {}

    @property
    def publish_url(self) -> str:
        """Of the producer."""
        return self.publish_urls[0]

    @property
    def database_url(self) -> str:
        """With its password."""
        return (self.folder / ".oncecast/postgres.url").read_text()

    async def run(self, script: str) -> str:
        """What `script` prints on its standard output; it has to end with status 0."""
        process = await self._begin(self.addressed(script))
        async with asyncio.timeout(COMMAND_DEADLINE_S):
            out, err = await process.communicate()
        assert process.returncode == 0, f"{script}\n{out.decode()}{err.decode()}"
        return out.decode()

    @asynccontextmanager
    async def up(self, command: str) -> AsyncIterator[None]:
        """`oncecast up …` as typed, on free ports, until the block ends."""
        self.processes.clear()
        process = await self._begin(f"exec {command} --port 0 --listener-port 0 --json")
        try:
            assert process.stdout is not None
            async with asyncio.timeout(BEGIN_DEADLINE_S):
                while "listener-b" not in self.processes:
                    line = await process.stdout.readline()
                    assert line, f"{command}: {(await process.communicate())[1].decode()}"
                    self._learn(msgspec.json.decode(line))
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.communicate()
        for log in self.folder.glob(".oncecast/*/output.log"):
            assert "Traceback" not in log.read_text(), log.read_text()[-5_000:]

    @asynccontextmanager
    async def running(self, command: str) -> AsyncIterator[None]:
        """A command in a terminal of its own, until the block ends."""
        process = await self._begin(f"exec {command}")
        try:
            yield
        finally:
            assert process.returncode is None, (await process.communicate())[1].decode()
            process.terminate()
            await process.communicate()

    def _learn(self, process: dict[str, Any]) -> None:
        self.processes[process["name"]] = SimpleNamespace(**process)
        if process["name"] == "producer":
            self.publish_urls = [process["address"]]
        elif process["name"].startswith("listener"):
            self.listener_urls[process["name"]] = process["address"]

    def addressed(self, script: str) -> str:
        """`script` with the addresses of the stack that runs here, once one does, instead of the usual ones."""
        script = script.replace("localhost:8025", f"localhost:{self._environment.get('MAIL_PORT')}")
        return addressed(script, self) if self.publish_urls else script

    async def _begin(self, script: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            cwd=self.folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


def commands_of(example: str) -> list[str]:
    """Return the commands in the docstring of `examples/EXAMPLE.py`, each on one line."""
    text = (ROOT / f"examples/{example}.py").read_text("utf-8")
    lines = re.findall(r"^    (.+(?:\n {10,}.+)*)", text.split('"""')[1], re.M)
    return [" ".join(line.split()) for line in lines]


class Example(Terminal):
    """An example that runs as its docstring says."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(folder, environment)
        (folder / "examples").symlink_to(ROOT / "examples")
        self.commands = commands_of(name)

    def commands_with(self, begin: str) -> list[str]:
        """Return the commands that start with `begin`."""
        return [command for command in self.commands if command.startswith(begin)]

    async def send(self) -> None:
        """Run its `oncecast send` commands."""
        for command in self.commands_with("oncecast send"):
            await self.run(command)

    async def shown(self) -> list[list[Any]]:
        """Return the rows of its `oncecast sql` command."""
        (query,) = self.commands_with("oncecast sql")
        return await self.answer(query)

    async def answer(self, query: str) -> list[list[Any]]:
        """The rows that a command prints."""
        return [list(msgspec.json.decode(line).values()) for line in (await self.run(query)).splitlines()]


ExampleOf = Callable[..., AbstractAsyncContextManager[Example]]


@pytest.fixture
def example_of(tmp_path: Path) -> ExampleOf:
    """`async with example_of("stock") as example`: `oncecast up` runs with it, as its docstring tells."""

    @asynccontextmanager
    async def make(name: str, **environment: str) -> AsyncIterator[Example]:
        example = Example(name, tmp_path, {"EVENT_RETRY_DELAY": "100ms", **environment})
        (up,) = example.commands_with("oncecast up")
        async with example.up(up):
            yield example

    return make
