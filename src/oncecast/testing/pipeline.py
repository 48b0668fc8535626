"""The stages of a listener without feed, Redis and waiting: events are attempted at once.

They are connected as in the listener's service, but with one worker, and run in rounds, so that a test is
deterministic: requeued events run after all others of the round. Leases are in memory and always granted. Waits are
recorded instead of waited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.core.clock import Clock, unix_us
from oncecast.core.event import Arrival, follow_up_id
from oncecast.core.outcomes import Outcome
from oncecast.core.ports import EventStore
from oncecast.core.telemetry import ProcessingFailed, TelemetryEvent
from oncecast.core.wire import Epoch, Events, decode_server_frame, events_frame
from oncecast.event import Event
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.listener.dependencies.quarantine import Quarantine
from oncecast.listener.feed.track import Track
from oncecast.listener.pipeline.attempt import AttemptLimits, Attempts
from oncecast.listener.pipeline.claim import Line
from oncecast.listener.pipeline.lines import CLAIM_MAX_EVENTS
from oncecast.listener.pipeline.order import Order
from oncecast.listener.pipeline.settle import Settlement
from oncecast.listener.recent import Recent
from oncecast.producer.cloudevents.publishable import check_publishable
from oncecast.tasks import cancel_all
from oncecast.testing.memory import MemoryLeases, MemoryRedis
from oncecast.testing.results import Ending, NotEnded, Result
from oncecast.testing.stores import TEST_NAME, Stores
from oncecast.testing.watched import WatchedEvents

SPARED_MAX = 25
"""An event that is requeued this often in a row without spending an attempt will never end."""
RELAY: Any = {"limit": 500, "max_bytes": 1024 * 1024, "within_s": 10.0}
EMITTED_MAX = 1_000
"""Emitted events per handler and event whose cause is found; the cause of further ones is not."""
TTL_S = 3_600.0

_ENDINGS: dict[Outcome, Ending] = {
    Outcome.STORED: "stored",
    Outcome.PRESENT: "duplicate",
    Outcome.DUPLICATE: "duplicate",
    Outcome.CONFLICT: "conflict",
}


class TestPipeline:
    """Ends events with the handlers of `app`, in `stores`; `publish(events)` receives the emitted events."""

    def __init__(
        self,
        app: App,
        stores: Stores,
        limits: AttemptLimits,
        publish: Callable[[Sequence[Event]], None],
        clock: Clock,
    ) -> None:
        self._app = app
        self._clock = clock
        self._stores = stores
        self._limits = limits
        self._publish = publish
        self.watched = WatchedEvents(stores.events)
        self._results: dict[int, Result] = {}
        self._under_way: set[int] = set()
        """The offsets of the events of this round."""
        self._round_over = asyncio.Event()
        self._stuck: NotEnded | None = None
        self._offset = 0
        self._join()

    def _join(self) -> None:
        """Create empty stages."""
        store, clock = cast("EventStore", self.watched), self._clock
        leases = LeaseGate(
            MemoryLeases(MemoryRedis(clock.monotonic_s), token=TEST_NAME, lease_ttl_s=TTL_S, mark_ttl_s=TTL_S),
            clock,
            lease_ttl_s=TTL_S,
            record=self._record,
        )
        self._spared: dict[int, tuple[int, int]] = {}
        """By offset: the spent attempts at the last requeue, and how often it was requeued with this number."""
        self._next_round: list[Arrival] = []
        self._track = Track(TEST_NAME, [Epoch(TEST_NAME, 1)], self._offset, _nothing)
        self._order = Order(
            self._app, release=self._next_round.append, let_go=lambda arrival: self._settlement.let_go(arrival)
        )
        self._settlement = Settlement(
            leases,
            Recent(TEST_NAME, clock),
            clock,
            release=self._order.let_second_through,
            ended=self._order.ended,
            was_let_go=self._order.was_let_go,
            record=self._record,
        )
        self._database = DatabaseGate(
            self._stores.events, clock, probe_interval_s=0.0, paused=_nothing, record=self._record
        )
        attempts = Attempts(
            self._app,
            store,
            self._database,
            RunOptions(clock=clock, timeout_s=self._limits.handler_timeout_s, check_emitted=check_publishable),
            limits=self._limits,
            settle=self._settle,
            come_back=self._come_back,
            let_go=self._settlement.let_go,
            paused=_nothing,
            emitted=_nothing,
            dead_lettered=_nothing,
            quarantine=Quarantine(leases, self._stores.crash_log),
            exclusive_run=ExclusiveRun(),
            record=self._record,
        )
        self._line = Line(
            lanes=1,
            claim_max=CLAIM_MAX_EVENTS,
            work_of=self._work_of,
            leases=leases,
            database=self._database,
            attempt=attempts.attempt,
            sort_out=_nothing,
        )

    async def end(self, raws: Sequence[bytes]) -> list[Result]:
        """Attempt events that arrive together, until all have ended; raises NotEnded."""
        arrivals = self._arrivals(raws)
        results = [Result(Event.from_json(arrival.raw)) for arrival in arrivals]
        self._results = {arrival.offset: result for arrival, result in zip(arrivals, results, strict=True)}
        try:
            await self._run(arrivals)
        except BaseException:
            self._stuck = None
            self._join()
            raise
        finally:
            for offset, ran in self.watched.last_ran.items():
                self._results[offset].statements = ran
            self.watched.last_ran.clear()
            await self._relay(arrivals)
        return results

    def _arrivals(self, raws: Sequence[bytes]) -> list[Arrival]:
        text = events_frame(self._offset + 1, unix_us(self._clock), b"[" + b",".join(raws) + b"]")
        frame = decode_server_frame(text)
        assert isinstance(frame, Events)  # noqa: S101 - we have just written it
        self._offset += len(raws)
        return self._track.receive(frame, text)

    async def _run(self, arrivals: list[Arrival]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._line.claim_loop()),
                    group.create_task(self._line.work_loop()),
                    group.create_task(self._database.probe_loop()),
                ]
                try:
                    await self._go_rounds(self._order.let_through(arrivals, self._settlement.enter(arrivals)))
                finally:
                    await cancel_all(tasks)
        except BaseExceptionGroup as raised:
            if len(raised.exceptions) > 1:
                raise
            raise raised.exceptions[0] from None  # such as `pytest.fail` in a handler

    async def _go_rounds(self, arrivals: list[Arrival]) -> None:
        while arrivals:
            self._under_way = {arrival.offset for arrival in arrivals}
            self._round_over.clear()
            self._line.push(arrivals)
            await self._round_over.wait()
            if self._stuck is not None:
                raise self._stuck
            arrivals = sorted(self._next_round, key=lambda arrival: arrival.offset)
            self._next_round.clear()

    def _over(self, arrivals: Sequence[Arrival]) -> None:
        self._under_way.difference_update(arrival.offset for arrival in arrivals)
        if not self._under_way:
            self._round_over.set()

    def _work_of(self, arrival: Arrival) -> tuple[Any, int]:
        """Return the key and maximum size of the work item, as the queues in `listener.pipeline.lines` do."""
        plan = self._app.plan_of(arrival.type, arrival.source)
        if not plan.handlers and not arrival.attempts:
            return plan, CLAIM_MAX_EVENTS
        alone = arrival.attempts or arrival.terminal_error is not None or plan.together_max == 1
        return (None, 1) if alone else (plan, plan.together_max)

    def _settle(self, work: list[Arrival], outcomes: list[Outcome]) -> None:
        for arrival, outcome in zip(work, outcomes, strict=True):
            result = self._results[arrival.offset]
            result.attempts = arrival.attempts
            result.outcome = _ENDINGS[outcome]
            if arrival.terminal_error is not None and outcome is Outcome.STORED:
                result.outcome = "dead"
            plan = self._app.plan_of(arrival.type, arrival.source)
            result.handlers = [handler.name for handler in plan.handlers]
        self._settlement.settle(work, outcomes)
        self._settlement.release_repeated()
        self._over(work)

    def _come_back(self, work: list[Arrival], delay_s: float) -> None:
        for arrival in work:
            attempts, times = self._spared.get(arrival.offset, (0, 0))
            if arrival.attempts == attempts:
                times += 1
            else:
                times = 0
                if arrival.terminal_error is None:
                    self._results[arrival.offset].waits_s.append(delay_s)
            self._spared[arrival.offset] = (arrival.attempts, times)
            if times > SPARED_MAX:
                self._stuck = NotEnded(
                    f"{arrival.type} {arrival.id} does not end: a listener keeps it, and spends no attempt, while"
                    f" this error persists: {self.watched.last_error}"
                )
        self._next_round.extend(work)
        self._over(work)

    def _record(self, telemetry: TelemetryEvent) -> None:
        if isinstance(telemetry, ProcessingFailed):
            of_identity = (
                result
                for offset, result in self._results.items()
                if offset in self._under_way
                and (result.event.id, result.event.source) == (telemetry.id, telemetry.source)
            )
            for result in of_identity:
                result.failures.append(telemetry.error)
                result.exception = self.watched.last_error

    # --- what was emitted ----------------------------------------------------------------------------------

    async def _relay(self, arrivals: Sequence[Arrival]) -> None:
        """Publish the emitted events of these arrivals, and add them to their results."""
        emitted: list[Event] = []

        async def publish(raws: Sequence[bytes]) -> None:
            emitted.extend(map(Event.from_json, raws))

        while await self._stores.outbox.relay(publish, **RELAY):
            pass
        if emitted:
            self._publish(emitted)
            causes = self._causes({event.id for event in emitted}, arrivals)
            for event in emitted:
                if event.id in causes:
                    causes[event.id].emitted.append(event)

    def _causes(self, ids: set[str], arrivals: Sequence[Arrival]) -> dict[str, Result]:
        """Return, by emitted id, the result of the event that caused it: ids are derived from it."""
        handled = [
            (arrival, handler.name, self._results[arrival.offset])
            for arrival in arrivals
            if self._results[arrival.offset].is_stored
            for handler in self._app.plan_of(arrival.type, arrival.source).handlers
        ]
        causes: dict[str, Result] = {}
        for index in range(EMITTED_MAX):
            for arrival, handler, result in handled:
                id_ = follow_up_id(arrival.source, arrival.id, self._app.name, handler, index)
                if id_ in ids:
                    causes[id_] = result
            if len(causes) == len(ids):
                break
        return causes


def _nothing(*_: object) -> None:
    """Ignore a call."""
