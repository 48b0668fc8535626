"""A gate for attempts that need a thread: while too many timed-out threads still run, it starts none.

Their leases are released, so that another listener can take the events. No attempt is spent, and no worker and no
connection is held meanwhile: handlers that need no thread continue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.core.errors import NoThread
from oncecast.core.telemetry import HandlersBlocked, Record
from oncecast.listener.dependencies.gates import LeaseGate
from oncecast.listener.pipeline.claim import WorkItem

WAIT_S = 1.0
"""The delay before released events are claimed again: other listeners check twice in that time."""


class ThreadGate:
    """Passes work on to `attempt`, or releases its leases and requeues it with `come_back(work, delay_s)`."""

    def __init__(
        self,
        app: App,
        leases: LeaseGate,
        options: RunOptions,
        *,
        attempt: Callable[[WorkItem], Awaitable[None]],
        come_back: Callable[[WorkItem, float], None],
        record: Record,
    ) -> None:
        self._app = app
        self._leases = leases
        self._abandoned_max = options.abandoned_threads_max
        self._attempt = attempt
        self._come_back = come_back
        self._record = record
        self._reported = False

    async def attempt(self, work: WorkItem) -> None:
        """Attempt `work`, all of one plan, unless its handlers need a thread and none may be started."""
        first = work[0]
        plan = self._app.plan_of(first.type, first.source)
        if plan.in_threads and first.terminal_error is None:
            try:
                self._app.check_threads(plan, self._abandoned_max)
            except NoThread as error:
                await self._hold_up(work, error)
                return
            self._reported = False
        await self._attempt(work)

    async def _hold_up(self, work: WorkItem, error: NoThread) -> None:
        if not self._reported:
            self._reported = True
            self._record(HandlersBlocked(str(error)))
        await self._leases.release(work)
        self._come_back(work, WAIT_S)
