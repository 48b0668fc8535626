"""A whole stack of real processes for acceptance tests, and functions that wait for conditions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx2
import psycopg
import pytest

from oncecast.embedded import Stack

StackOf = Callable[..., AbstractAsyncContextManager[Stack]]
WAIT_INTERVAL_S = 0.05


class RunningProcess(Protocol):
    """A process of a stack."""

    @property
    def pid(self) -> int | None:
        """None while it does not run."""


class RunningStack(Protocol):
    """A stack, started by this process or by a command in a terminal."""

    @property
    def publish_url(self) -> str:
        """Of the first producer."""

    @property
    def publish_urls(self) -> Sequence[str]:
        """Of every producer."""

    @property
    def listener_urls(self) -> Mapping[str, str]:
        """Of every listener, by name."""

    @property
    def database_url(self) -> str:
        """With its password."""

    @property
    def processes(self) -> Mapping[str, RunningProcess]:
        """All processes, by name."""


async def until(condition: Callable[[], Awaitable[Any]], within_s: float = 60.0) -> Any:
    """Call `condition` until its result is true, and return it; fail if that takes too long.

    The deadline counts calls, so that a slow machine allows more time.
    """
    answer = await condition()
    for _ in range(round(within_s / WAIT_INTERVAL_S)):
        if answer:
            return answer
        await asyncio.sleep(WAIT_INTERVAL_S)
        answer = await condition()
    assert answer, f"{condition.__name__}: still {answer!r} after {within_s} s"
    return answer


async def rows(stack: RunningStack, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        return await (await connection.execute(query)).fetchall()


async def drained(stack: RunningStack, within_s: float = 90.0) -> None:
    """Wait until every listener that runs has seen every event of every producer end."""
    async with httpx2.AsyncClient(timeout=5.0) as client:

        async def nothing_left() -> bool:
            lasts = {}
            for url in stack.publish_urls:
                journal = (await client.get(f"{url}/health")).json()["journal"]
                lasts[journal["name"]] = journal["last"]
            for name, url in stack.listener_urls.items():
                if stack.processes[name].pid is None:
                    continue
                health = (await client.get(f"{url}/health")).json()
                seen = {p["journal"]: p["watermark"] for p in health["producers"]}
                if health["in_flight"] or any(seen.get(journal) != last for journal, last in lasts.items()):
                    return False
            return True

        await until(nothing_left, within_s)


@pytest.fixture
def stack_of(tmp_path: Path) -> StackOf:
    """`async with stack_of(listeners=3) as stack`: begun on free ports, ended with the block.

    At the end, no process may have printed a stack trace.
    """

    @asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[Stack]:
        defaults = {"producer_port": 0, "listener_port": 0}
        async with Stack(tmp_path / "stack", **{**defaults, **options}) as stack:
            yield stack
        for log in (tmp_path / "stack").glob("*/output.log"):
            assert "Traceback" not in log.read_text(), log.read_text()[-5_000:]

    return make
