"""The listener's pipeline without feed, Redis and waiting: events are attempted at once, and deterministically."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from operator import attrgetter
from typing import Any, cast

from oncecast.app.application import App
from oncecast.app.isolation import RunOptions
from oncecast.core.clock import Clock, unix_us
from oncecast.core.event import Arrival, follow_up_id
from oncecast.core.outcomes import Outcome
from oncecast.core.ports import ListenerStore
from oncecast.core.ranges import RANGE_MAX_EVENTS, Range
from oncecast.core.telemetry import ProcessingFailed, Record, TelemetryEvent
from oncecast.core.wire import Epoch, Events, decode_server_frame, events_frame
from oncecast.event import Event
from oncecast.listener.dependencies.exclusive_run import ExclusiveRun
from oncecast.listener.dependencies.gates import DatabaseGate, LeaseGate
from oncecast.listener.feed.track import Track
from oncecast.listener.pipeline.attempt import AttemptLimits, Ended, Requeue
from oncecast.listener.pipeline.pipeline import Parts, Pipeline
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


class Rounds(Pipeline):
    """A pipeline with one worker, which runs in rounds: requeued events run after all others of the round.

    Waits are recorded by `requeued` instead of waited; `ended` is called before events end.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        ended: Callable[[Ended], None],
        requeued: Callable[[Requeue], None],
        record: Record,
    ) -> None:
        super().__init__(parts, lease_ttl_s=TTL_S, emitted=_nothing, dead_lettered=_nothing, record=record)
        self._record_ended = ended
        self._record_requeued = requeued
        self._next_round: list[Arrival] = []

    async def end_all(self, ranges: Sequence[Range]) -> AsyncIterator[None]:
        """Attempt the events of `ranges` until all have ended; yield after each work item."""
        self._admit(ranges)
        self._acquire(ranges)
        while True:
            waiting = [queue for queue in self.queues.all if queue.next_offset is not None]
            if waiting:
                queue = min(waiting, key=attrgetter("next_offset"))
                await self._attempt(await queue.get())
                await self._database.wait()
                yield
            elif self._identities.has_repeated.is_set():
                await self.compare()
            elif self._next_round:
                self.queues.put(sorted(self._next_round, key=attrgetter("offset")))
                self._next_round.clear()
            else:
                return

    def _after_commit(self, ended: Ended) -> None:
        self._record_ended(ended)
        super()._after_commit(ended)

    def _requeue(self, work: list[Arrival], after_s: float = 0.0) -> None:
        self._record_requeued(Requeue(work, after_s))
        self._next_round += work


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
        self._open: set[int] = set()
        """The offsets of the events that have not ended."""
        self._stuck: NotEnded | None = None
        self._offset = 0
        self._join()

    def _join(self) -> None:
        """Create an empty pipeline."""
        store, clock = cast("ListenerStore", self.watched), self._clock
        self._spared: dict[int, tuple[int, int]] = {}
        """By offset: the spent attempts at the last requeue, and how often it was requeued with this number."""
        self._track = Track(TEST_NAME, [Epoch(TEST_NAME, 1)], self._offset, _nothing)
        self._database = DatabaseGate(store, clock, probe_interval_s=0.0, paused=_nothing, record=self._record)
        parts = Parts(
            app=self._app,
            store=store,
            crash_log=self._stores.crash_log,
            leases=LeaseGate(
                MemoryLeases(MemoryRedis(clock.monotonic_s), token=TEST_NAME, lease_ttl_s=TTL_S, mark_ttl_s=TTL_S),
                clock,
                lease_ttl_s=TTL_S,
                record=self._record,
            ),
            database=self._database,
            recent=Recent(TEST_NAME, clock),
            exclusive_run=ExclusiveRun(),
            options=RunOptions(
                clock=clock, timeout_s=self._limits.handler_timeout_s, check_emitted=check_publishable
            ),
            limits=self._limits,
        )
        self._rounds = Rounds(parts, ended=self._ended, requeued=self._requeued, record=self._record)

    async def end(self, raws: Sequence[bytes]) -> list[Result]:
        """Attempt events that arrive together, until all have ended; raises NotEnded."""
        ranges = self._receive(raws)
        arrivals = [arrival for each in ranges for arrival in each.arrivals]
        results = [Result(Event.from_json(arrival.raw)) for arrival in arrivals]
        self._results = {arrival.offset: result for arrival, result in zip(arrivals, results, strict=True)}
        self._open = {arrival.offset for arrival in arrivals}
        try:
            await self._run(ranges)
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

    def _receive(self, raws: Sequence[bytes]) -> list[Range]:
        text = events_frame(self._offset + 1, unix_us(self._clock), b"[" + b",".join(raws) + b"]")
        frame = decode_server_frame(text)
        assert isinstance(frame, Events)  # noqa: S101 - we have just written it
        self._offset += len(raws)
        return self._track.receive(frame, text, RANGE_MAX_EVENTS)

    async def _run(self, ranges: list[Range]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                probing = group.create_task(self._database.probe_loop())
                try:
                    async for _ in self._rounds.end_all(ranges):
                        if self._stuck is not None:
                            raise self._stuck
                finally:
                    await cancel_all([probing])
        except BaseExceptionGroup as raised:
            if len(raised.exceptions) > 1:
                raise
            raise raised.exceptions[0] from None  # such as `pytest.fail` in a handler

    def _ended(self, ended: Ended) -> None:
        for arrival, outcome in zip(ended.work, ended.outcomes, strict=True):
            self._open.discard(arrival.offset)
            result = self._results[arrival.offset]
            result.attempts = arrival.attempts
            result.outcome = _ENDINGS[outcome]
            if arrival.terminal_error is not None and outcome is Outcome.STORED:
                result.outcome = "dead"
            plan = self._app.plan_of(arrival.type, arrival.source)
            result.handlers = [handler.name for handler in plan.handlers]

    def _requeued(self, requeue: Requeue) -> None:
        for arrival in requeue.work:
            attempts, times = self._spared.get(arrival.offset, (0, 0))
            if arrival.attempts == attempts:
                times += 1
            else:
                times = 0
                if arrival.terminal_error is None:
                    self._results[arrival.offset].waits_s.append(requeue.after_s)
            self._spared[arrival.offset] = (arrival.attempts, times)
            if times > SPARED_MAX:
                self._stuck = NotEnded(
                    f"{arrival.type} {arrival.id} does not end: a listener keeps it, and spends no attempt, while"
                    f" this error persists: {self.watched.last_error}"
                )

    def _record(self, telemetry: TelemetryEvent) -> None:
        if isinstance(telemetry, ProcessingFailed):
            of_identity = (
                result
                for offset, result in self._results.items()
                if offset in self._open and (result.event.id, result.event.source) == (telemetry.id, telemetry.source)
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
