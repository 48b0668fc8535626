"""A child is begun once, known to be ready, ended the way it likes, and reported when it ends by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from oncecast.core.errors import StartError
from oncecast.embedded.process import Launch, Process
from tests.support.stacks import until

READY = "import pathlib, signal, time; {}; pathlib.Path('ready').touch(); time.sleep(60)"
GENTLE = READY.format("pass")
STUBBORN = READY.format("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
Begin = Callable[..., Awaitable[Process]]


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    """`await begin(code)` begins a child that runs `code`; all are gone at the end."""
    begun: list[Process] = []
    read, guard_pipe = os.pipe()

    async def make(code: str, changed: Callable[[Process], None] = lambda _process: None) -> Process:
        async def prepare() -> Launch:
            await asyncio.sleep(0)
            return Launch(command=[sys.executable, "-c", code], folder=tmp_path, environment=os.environ)

        async def ready() -> bool:
            return (tmp_path / "ready").exists()

        process = Process("child", "", prepare, ready, changed, guard_pipe)
        begun.append(process)
        await asyncio.gather(process.start(), process.start())
        return process

    yield make
    for process in begun:
        await process.kill()
    os.close(guard_pipe)
    os.close(read)


async def test_two_concurrent_starts_create_one_child(begin: Begin) -> None:
    pids: list[int | None] = []
    process = await begin(GENTLE, lambda process: pids.append(process.pid))
    assert pids == [process.pid]


async def test_it_ends_by_itself_when_asked(begin: Begin) -> None:
    process = await begin(GENTLE)
    await process.wait_ready()
    assert process.state == "running"
    await process.stop()
    assert (process.state, process.returncode, process.has_failed) == ("stopped", -signal.SIGTERM, False)


async def test_it_is_killed_when_it_does_not_end_in_time(begin: Begin) -> None:
    process = await begin(STUBBORN)
    await process.wait_ready()
    await process.stop(deadline_s=0.1)
    assert process.returncode == -signal.SIGKILL


async def test_a_paused_child_can_be_stopped_and_killed(begin: Begin) -> None:
    process = await begin(GENTLE)
    await process.wait_ready()
    process.pause()
    assert process.state == "paused"
    await process.stop()
    assert process.returncode == -signal.SIGTERM


async def test_a_child_that_ends_before_it_is_ready_fails_at_once_with_its_last_words(begin: Begin) -> None:
    process = await begin("import sys; sys.exit('the last words')")
    with pytest.raises(StartError, match=r"^child ended with status 1: the last words$"):
        await process.wait_ready()
    assert not process.has_failed  # wait_ready has raised it


async def test_a_child_that_is_never_ready_fails_by_the_deadline(begin: Begin) -> None:
    process = await begin("import time; time.sleep(60)")
    with pytest.raises(StartError, match="child was not ready within 0 s"):
        await process.wait_ready(deadline_s=0.1)


async def test_a_ready_child_that_ends_unasked_has_failed(begin: Begin) -> None:
    process = await begin(GENTLE)
    await process.wait_ready()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)

    async def has_failed() -> bool:
        return process.has_failed

    await until(has_failed)
    assert process.state == "ended"


async def test_a_child_is_gone_when_stopping_it_was_cancelled(begin: Begin) -> None:
    process = await begin(STUBBORN)
    await process.wait_ready()
    stopping = asyncio.create_task(process.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    await process.kill()
    assert process.returncode == -signal.SIGKILL


async def test_a_child_is_stopped_although_every_other_task_was_cancelled(begin: Begin) -> None:
    process = await begin(GENTLE)
    await process.wait_ready()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await process.stop()
    assert process.returncode == -signal.SIGTERM
