"""A listener without feed, leases and time: what is sent is attempted at once, by the stations of the real one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import msgspec

from oncecast.core.errors import OncecastError
from oncecast.core.event import DEFAULT_SOURCE, Arrival, Event, follow_up_id, new_id
from oncecast.core.facts import DependencyLost, Fact, ProcessingFailed
from oncecast.core.ports import Outcome
from oncecast.core.wire import Epoch
from oncecast.listener.attempt import AttemptLimits, Attempts
from oncecast.listener.gates import DatabaseGate, LeaseGate
from oncecast.listener.handlers import Listener
from oncecast.listener.order import Order
from oncecast.listener.solo import Solo
from oncecast.listener.track import Track
from oncecast.listener.trial import Trial
from oncecast.producer.publishable import check_publishable
from oncecast.stores.memory import MemoryLeases, MemoryRedis
from oncecast.testing.results import Ending, Result
from oncecast.testing.scripted import Answer, Statement
from oncecast.testing.stores import MemoryStores, PostgresStores

ROUNDS_MAX = 1_000
"""Whatever is not at an end by then waits for something that does not come."""
FOLLOWED_MAX = 10_000
EMITTED_MAX = 1_000
"""By one handler for one event: those beyond are in `emitted` of the listener only."""
NAME = "test"

_ENDINGS: dict[Outcome, Ending] = {
    Outcome.STORED: "stored",
    Outcome.PRESENT: "duplicate",
    Outcome.DUPLICATE: "duplicate",
    Outcome.CONFLICT: "conflict",
}
_KEEP: Any = object()

EventLike = Event | Mapping[str, Any]


class TestListener:
    """Attempts what is sent with the handlers of `app`, as a listener would, but at once.

    In memory there is no SQL: statements are written down (`Result.statements`), and `answer` tells what they return.
    With `postgres=True` they run on a real embedded PostgreSQL (the extra `embedded`), in a database of its own that
    goes at the end; with a URL, on that server. `state` stands in for what the application's lifespan yields, and
    `timeout_s` is the time of a transaction's handlers. What is not named here is as a listener's settings have it.
    """

    __test__ = False

    def __init__(
        self,
        app: Listener,
        *,
        postgres: bool | str = False,
        state: Any = _KEEP,
        timeout_s: float = 60.0,
        event_attempts: int = 3,
    ) -> None:
        self._app = app
        self._state = state
        self._limits = AttemptLimits(
            handler_timeout_s=timeout_s, event_attempts=event_attempts, db_attempts=1, db_retry_delay_s=0.0
        )
        self._stores: MemoryStores | PostgresStores = PostgresStores(postgres) if postgres else MemoryStores()
        self._track = Track(NAME, [Epoch(NAME, 1)], 0, lambda _bytes: None)
        self._order = Order(app, release=lambda arrival: self._waiting.append([arrival]))
        self._waiting: deque[list[Arrival]] = deque()
        self._results: dict[int, Result] = {}
        self._attempted: list[Arrival] = []
        self._trouble: str | None = None
        self._exit = AsyncExitStack()
        self.emitted: list[Event] = []
        """All that was emitted and committed so far."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._stores)
            await stack.enter_async_context(
                self._app.alive() if self._state is _KEEP else self._app.given(self._state)
            )
            self._exit = stack.pop_all()
        store, observe = self._stores.events, self._observe
        leases = LeaseGate(
            MemoryLeases(MemoryRedis(time.monotonic), token=NAME, lease_ttl_s=30.0, mark_ttl_s=15.0),
            lease_ttl_s=30.0,
            observe=observe,
        )
        self._attempts = Attempts(
            self._app,
            store,
            DatabaseGate(store, probe_interval_s=1.0, paused=lambda: None, observe=observe),
            limits=self._limits,
            settle=self._settle,
            come_back=self._come_back,
            paused=lambda: None,
            emitted=lambda: None,
            trial=Trial(leases, self._stores.deaths),
            solo=Solo(),
            observe=observe,
            check_emitted=check_publishable,
        )
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._exit.__aexit__(*error)

    async def send(self, event: EventLike, *, follow: bool = False) -> Result:
        """Attempt one event until it has ended; with `follow`, what it emits too, and so on.

        A mapping is a bare event: its `id` and `type` if it has any, and all of it as the data.
        """
        return (await self.send_all([event], follow=follow))[0]

    async def send_all(self, events: Iterable[EventLike], *, follow: bool = False) -> list[Result]:
        """Attempt events that arrive together, as a listener would: those that may be in one transaction are."""
        arrivals = [self._arrival(event) for event in events]
        await self._attempt_all(arrivals)
        results = [self._results.pop(arrival.offset) for arrival in arrivals]
        if follow:
            await self._follow([event for result in results for event in result.emitted])
        return results

    def answer(self, query: str, answer: Answer) -> None:
        """In memory: from now on statements that begin with `query` return these rows (or touch so many, or raise).

        `answer` may be a function of the statement's parameters.
        """
        if not isinstance(self._stores, MemoryStores):
            raise OncecastError("PostgreSQL answers by itself: write what it shall have with t.execute(…)")
        self._stores.server.tell(query, answer)

    @property
    def statements(self) -> list[Statement]:
        """In memory: all that handlers ran."""
        return list(self._stores.statements)

    async def execute(self, query: str, params: Any = None) -> int:
        """On a real PostgreSQL: run a statement of the test's own, such as `create table …`."""
        return (await self._asked(query, params))[0]

    async def fetch_all(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        """On a real PostgreSQL: rows by column name."""
        return (await self._asked(query, params))[1]

    async def _asked(self, query: str, params: Any) -> tuple[int, list[dict[str, Any]]]:
        if not isinstance(self._stores, PostgresStores):
            raise OncecastError("in memory there is no SQL: TestListener(app, postgres=True) has a real PostgreSQL")
        return await self._stores.ask(query, params)

    # --- the way of an event -------------------------------------------------------------------------------

    def _arrival(self, event: EventLike) -> Arrival:
        if not isinstance(event, Event):
            event = _wrapped(event)
        raw = event.to_json()
        check_publishable(raw)
        offset = self._track.watermark.arrive(self._track.watermark.received + 1, self._track.watermark.received + 1)
        arrival = Arrival(
            track=self._track,
            offset=offset,
            at_us=int(time.time() * 1e6),
            id=event.id,
            source=event.source,
            type=event.type,
            raw=msgspec.Raw(raw),
            cost_bytes=0,
            epoch=NAME,
            journal=NAME,
        )
        self._results[offset] = Result(event, "stored")
        return arrival

    async def _attempt_all(self, arrivals: list[Arrival]) -> None:
        self._waiting.extend(self._pieces(self._order.let_through(arrivals, arrivals)))
        for _ in range(ROUNDS_MAX * (1 + len(arrivals))):
            if not self._waiting:
                return
            await self._attempt(self._waiting.popleft())
        why = self._trouble or "what does not come"
        raise OncecastError(f"{self._waiting[0][0].id} does not end: it waits for {why}")

    async def _attempt(self, work: list[Arrival]) -> None:
        self._attempted = work
        before = len(self._stores.statements)
        await self._attempts.attempt(work)
        ran = list(self._stores.statements[before:])
        for arrival in work:
            if ran:
                self._results[arrival.offset].statements = ran
        await self._stores.outbox.relay(self._keep_emitted, limit=FOLLOWED_MAX)

    async def _keep_emitted(self, raws: Sequence[bytes]) -> None:
        events = {event.id: event for event in map(Event.from_json, raws)}
        self.emitted.extend(events.values())
        for arrival in self._attempted:
            for handler in self._app.plan_of(arrival.type, arrival.source).handlers:
                ids = (follow_up_id(arrival.source, arrival.id, handler.name, n) for n in range(EMITTED_MAX))
                mine = [events[id_] for id_ in ids if id_ in events]
                self._results[arrival.offset].emitted.extend(mine)

    def _pieces(self, arrivals: Sequence[Arrival]) -> list[list[Arrival]]:
        pieces: dict[Any, list[Arrival]] = {}
        for arrival in arrivals:
            plan = self._app.plan_of(arrival.type, arrival.source)
            pieces.setdefault(plan if plan.together_max > 1 else arrival, []).append(arrival)
        return [
            piece[begin : begin + plan.together_max]
            for piece in pieces.values()
            for plan in [self._app.plan_of(piece[0].type, piece[0].source)]
            for begin in range(0, len(piece), plan.together_max)
        ]

    def _settle(self, work: list[Arrival], outcomes: list[Outcome]) -> None:
        for arrival, outcome in zip(work, outcomes, strict=True):
            result = self._results[arrival.offset]
            result.attempts = arrival.attempts
            result.outcome, result.exception = _ENDINGS[outcome], arrival.doom
            if arrival.doom is not None and outcome is Outcome.STORED:
                result.outcome = "dead"
            if arrival.turn is not None:
                self._order.ended(arrival)

    def _come_back(self, work: list[Arrival], delay_s: float) -> None:
        for arrival in work:
            if delay_s and arrival.attempts and arrival.doom is None:
                self._results[arrival.offset].waits_s.append(delay_s)
        self._waiting.append(work)

    def _observe(self, fact: Fact) -> None:
        if isinstance(fact, DependencyLost):
            self._trouble = fact.error
        if isinstance(fact, ProcessingFailed):
            for arrival in self._attempted:
                if (arrival.id, arrival.source) == (fact.id, fact.source):
                    self._results[arrival.offset].failures.append(fact.error)

    async def _follow(self, events: Sequence[Event]) -> None:
        followed = 0
        while events:
            followed += len(events)
            if followed > FOLLOWED_MAX:
                raise OncecastError(f"more than {FOLLOWED_MAX} follow-ups: do two handlers emit for each other?")
            results = await self.send_all(events)
            events = [event for result in results for event in result.emitted]


def _wrapped(data: Mapping[str, Any]) -> Event:
    """A bare event, as a producer wraps it; a mapping with `specversion` is a CloudEvent."""
    if "specversion" in data:
        return Event.from_json(msgspec.json.encode(dict(data)))
    type_, id_ = data.get("type"), data.get("id")
    return Event.new(
        type_ if isinstance(type_, str) else "event",
        dict(data),
        id=str(id_) if isinstance(id_, str | int) else new_id(),
        source=DEFAULT_SOURCE,
    )
