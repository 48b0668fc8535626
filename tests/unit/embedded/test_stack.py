"""The end of a stack ends every process of it, whatever one of them does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from oncecast.core.errors import StartError
from oncecast.embedded.stack import Stack


class Child:
    """A process that ends after a few turns of the event loop, or raises `error` at once."""

    def __init__(self, error: Exception | None = None) -> None:
        self.wanted = True
        self.has_ended = False
        self._error = error

    async def stop(self) -> None:
        if self._error is not None:
            raise self._error
        for _ in range(3):
            await asyncio.sleep(0)
        self.has_ended = True


def stack_of(folder: Path, **children: Any) -> Stack:
    stack = Stack(folder)
    stack.processes = {name.replace("_", "-"): child for name, child in children.items()}
    return stack


async def test_a_process_that_does_not_end_leaves_no_other_running_and_is_reported(tmp_path: Path) -> None:
    others = {name: Child() for name in ("listener_b", "producer", "postgres")}
    first, second = StartError("listener-a does not end"), StartError("valkey does not end")
    stack = stack_of(tmp_path, listener_a=Child(first), valkey=Child(second), **others)
    with pytest.raises(StartError, match="listener-a does not end"):
        await stack._stop_all()
    assert [name for name, child in others.items() if not child.has_ended] == []


async def test_a_restart_reports_a_listener_that_does_not_end_when_the_others_have_ended(tmp_path: Path) -> None:
    other = Child()
    stack = stack_of(tmp_path, listener_a=Child(StartError("listener-a does not end")), listener_b=other)
    with pytest.raises(StartError, match="listener-a does not end"):
        await stack.restart_listeners()
    assert other.has_ended
