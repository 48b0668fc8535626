"""Replay: process a dead letter again, at an operator's request.

The handlers run as for any event. Their writes, and the change of the row from `dead` to `stored`, commit together
under the row's lock. So a replay is safe to repeat, and an interrupted replay changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.core.conflicts import Conflicts
from oncecast.core.dead_letter_ports import DeadLetters, ReplayWork
from oncecast.core.errors import NoThread, Reject, Retry, RowLocked, TransactionConflict, Unavailable
from oncecast.core.event import Arrival, Cursor
from oncecast.core.telemetry import (
    ConflictReplayed,
    ConflictReplayFailed,
    Record,
    Replayed,
    ReplayFailed,
    TelemetryEvent,
)
from oncecast.core.tracebacks import users_traceback
from oncecast.core.transaction import OpenTransaction
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.tasks import cancel_all


class Replay(Enum):
    """The outcome of a replay."""

    STORED = "stored"
    FAILED = "failed"
    """It failed again; the row has the newest error."""
    NOT_DEAD = "not_dead"
    """No such dead letter: it never existed, was replayed, or was discarded."""
    UNKNOWN = "unknown"
    """No answer, another replay in progress, or no free thread: it is safe to repeat."""


class ReplayResult(NamedTuple):
    """The outcome of a replay, with the error."""

    outcome: Replay
    error: str | None = None


TRIES = 3
"""The number of times that a replay is attempted whose transaction conflicts with others."""
CONFLICT_NOT_OPEN = "there is no such conflict, or it was replayed or discarded"
REFUSED = ReplayResult(Replay.UNKNOWN, "this listener is stopping")
CUT_SHORT = ReplayResult(Replay.UNKNOWN, "this listener is stopping: the replay was cut short")


class Replays:
    """Replays dead letters with the handlers of `app`: `concurrency` at a time, or in order if a handler has one."""

    def __init__(
        self,
        app: App,
        dead_letters: DeadLetters,
        exclusive_run: ExclusiveRun,
        options: RunOptions,
        *,
        concurrency: int,
        record: Record,
    ) -> None:
        self._app = app
        self._dead_letters = dead_letters
        self._exclusive_run = exclusive_run
        self._options = options
        self._record = record
        self.ordered = app.has_order
        """Whether replays run one at a time, in the order of the requests."""
        self._places = asyncio.Semaphore(1 if self.ordered else concurrency)
        self._under_way: set[asyncio.Task[ReplayResult]] = set()
        self.draining = False
        """Whether replays are refused."""

    async def replay(self, source: str, id: str) -> ReplayResult:
        """Replay one dead letter. Raises only cancellation of the caller, and then the replay continues."""
        return await self._run(
            partial(self._dead_letters.replay, source, id),
            stored=Replayed(id),
            on_failure=partial(self._note_failure, source, id),
            why_not=partial(self._why_not, source, id),
        )

    async def replay_conflict(self, conflicts: Conflicts, place: Cursor, new_id: str) -> ReplayResult:
        """Replay one conflict, as `replay` does. The outcome is NOT_DEAD if the conflict is not open."""

        async def on_failure(_error: Exception, reason: str) -> None:
            self._record(ConflictReplayFailed(str(place), reason))

        async def why_not() -> str:
            return CONFLICT_NOT_OPEN

        stored = ConflictReplayed(new_id, str(place))
        attempt = partial(conflicts.replay, place, new_id)
        return await self._run(attempt, stored=stored, on_failure=on_failure, why_not=why_not)

    async def _run(self, attempt: Callable[[ReplayWork], Awaitable[bool]], **reports: Any) -> ReplayResult:
        if self.draining:
            return REFUSED
        task = asyncio.create_task(self._in_turn(attempt, **reports))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.wait([task])
        return CUT_SHORT if task.cancelled() else task.result()

    async def drain(self, *, within_s: float) -> None:
        """Refuse new replays; wait up to `within_s` for the running ones, then cancel them."""
        self.draining = True
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=within_s)
            await cancel_all(late)

    async def _in_turn(
        self,
        attempt: Callable[[ReplayWork], Awaitable[bool]],
        *,
        stored: TelemetryEvent,
        on_failure: Callable[[Exception, str], Awaitable[None]],
        why_not: Callable[[], Awaitable[str]],
    ) -> ReplayResult:
        async with self._places, self._exclusive_run.shared():
            if self.draining:
                return REFUSED
            try:
                if not await self._attempt(attempt):
                    return ReplayResult(Replay.NOT_DEAD, await why_not())
            except (Unavailable, RowLocked, NoThread) as error:
                return ReplayResult(Replay.UNKNOWN, str(error))
            except Exception as error:  # of a handler or the data, or the new id is in use: nothing has changed
                reason = f"{type(error).__name__}: {error}"
                await on_failure(error, reason)
                return ReplayResult(Replay.FAILED, reason)
            self._record(stored)
            return ReplayResult(Replay.STORED)

    async def _attempt(self, attempt: Callable[[ReplayWork], Awaitable[bool]]) -> bool:
        """Attempt a replay, and again if its transaction conflicts with another."""
        for _ in range(TRIES - 1):
            with contextlib.suppress(TransactionConflict):
                return await attempt(self._handle)
        return await attempt(self._handle)

    async def _why_not(self, source: str, id: str) -> str:
        with contextlib.suppress(Unavailable, RowLocked):
            dead_letter = await self._dead_letters.get(source, id)
            if dead_letter is not None and dead_letter["discarded_at"] is not None:
                return "it was discarded; restored, it can be replayed"
        return "there is no dead letter with this source and id"

    async def _handle(self, arrival: Arrival, tx: OpenTransaction) -> None:
        plan = self._app.plan_of(arrival.type, arrival.source)
        if plan.handlers:
            if plan.key_of is not None and (key := plan.key_of(arrival)) is not None:
                # rule: a replay locks the key of its event
                await tx.take(key)
            await self._app.handle([arrival], tx, self._options)

    async def _note_failure(self, source: str, id: str, error: Exception, reason: str) -> None:
        trace = "" if isinstance(error, Reject | Retry) else users_traceback(error)
        self._record(ReplayFailed(id, reason, trace))
        with contextlib.suppress(Unavailable, RowLocked):  # the earlier error stays
            await self._dead_letters.note_failure(source, id, error)
