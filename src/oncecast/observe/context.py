"""The event that the running code handles; log lines of handlers name it.

A handler's task has its own context, and a thread that runs a plain `def` handler gets a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

current_event: ContextVar[str] = ContextVar("oncecast_event", default="")
"""The id of the event that is being handled, `first … last` of a batch; empty outside of handlers."""


@contextmanager
def handling(ids: Sequence[str]) -> Iterator[None]:
    """Name the events of `ids` in every log line of the block, and of the tasks and threads that it starts."""
    before = current_event.set(ids[0] if len(ids) == 1 else f"{ids[0]} … {ids[-1]}")
    try:
        yield
    finally:
        current_event.reset(before)
