"""The queues of a listener, and which of them an event enters: none waits behind another's events.

One queue is for events that are only stored, one for handlers that take batches, one for events attempted one by one,
which includes those that have failed before. The last has few workers, for events after a lock timeout: each may
occupy its worker until the next lock timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from oncecast.app.application import App
from oncecast.core.event import Arrival
from oncecast.listener.pipeline.claim import Line

BULK_LANES = 2
TOGETHER_LANES = 2
TOGETHER_PIECES = 2
"""Handler calls per worker that a claim covers: a call may take few events and a long time."""
CLAIM_MAX_EVENTS = 1_000
HELD_UP_SHARE = 4
"""Workers for one-by-one events per worker for events after a lock timeout."""
CLAIM_PER_LANE = 4
"""The number of one-by-one events per worker in a claim."""
FAST_LANE_CLAIM = 16
"""The maximum number of one-by-one events per worker in a claim, while attempts are fast."""


class Lines:
    """Sends events to their queues. `join` has the arguments common to every Line."""

    def __init__(self, app: App, *, handler_concurrency: int, **join: Any) -> None:
        self._app = app
        lanes = handler_concurrency
        bulk_work = (None, CLAIM_MAX_EVENTS)
        self._bulk = Line(lanes=BULK_LANES, claim_max=CLAIM_MAX_EVENTS, work_of=lambda _: bulk_work, **join)
        together_lanes = min(TOGETHER_LANES, lanes)
        self._together = Line(
            lanes=together_lanes,
            claim_max=CLAIM_MAX_EVENTS,
            pieces_max=TOGETHER_PIECES * together_lanes,
            work_of=self._work_together,
            **join,
        )
        self._singles = Line(
            lanes=lanes,
            claim_max=min(CLAIM_PER_LANE * lanes, CLAIM_MAX_EVENTS),
            claim_fast_max=min(FAST_LANE_CLAIM * lanes, CLAIM_MAX_EVENTS),
            work_of=lambda _: (None, 1),
            **join,
        )
        held_up_lanes = max(1, lanes // HELD_UP_SHARE)
        self._held_up = Line(lanes=held_up_lanes, claim_max=held_up_lanes, work_of=lambda _: (None, 1), **join)
        self._lines = (self._bulk, self._together, self._singles, self._held_up)

    def push(self, arrivals: list[Arrival]) -> None:
        """Append new events to their queues."""
        self._send(arrivals, Line.push)

    def push_first(self, arrivals: list[Arrival]) -> None:
        """Requeue events at the front of their queues."""
        self._send(arrivals, Line.push_first)

    def claiming(self) -> list[Coroutine[Any, Any, None]]:
        """Return the claim loop of each queue."""
        return [line.claim_loop() for line in self._lines]

    def working(self) -> list[Coroutine[Any, Any, None]]:
        """Return the worker loops of all queues."""
        return [line.work_loop() for line in self._lines for _ in range(line.lanes)]

    async def idle(self) -> None:
        """Wait until no claimed event is being attempted."""
        for line in self._lines:
            await line.idle()

    def _send(self, arrivals: list[Arrival], push: Callable[[Line, list[Arrival]], None]) -> None:
        plan_of = self._app.plan_of
        bulk: list[Arrival] = []
        together: list[Arrival] = []
        singles: list[Arrival] = []
        held_up: list[Arrival] = []
        for arrival in arrivals:
            plan = plan_of(arrival.type, arrival.source)
            if arrival.held_up:
                held_up.append(arrival)
            elif arrival.attempts or arrival.terminal_error is not None:
                singles.append(arrival)
            elif not plan.handlers:
                bulk.append(arrival)
            elif plan.together_max > 1:
                together.append(arrival)
            else:
                singles.append(arrival)
        push(self._bulk, bulk)
        push(self._together, together)
        push(self._singles, singles)
        self._held_up.push(held_up)  # to the back, so that each of them gets its turn

    def _work_together(self, arrival: Arrival) -> tuple[Any, int]:
        plan = self._app.plan_of(arrival.type, arrival.source)
        return plan, plan.together_max
