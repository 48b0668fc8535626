"""What a test holds in its hand: sends events to an application's handlers, and tells what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from oncecast.app.application import Listener
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.clock import Clock
from oncecast.core.errors import OncecastError
from oncecast.core.event import Event, encode
from oncecast.core.transaction import Params
from oncecast.http.problems import Problem
from oncecast.listener.pipeline.attempt import AttemptLimits
from oncecast.producer.cloudevents.bare import JSON, Bare
from oncecast.producer.cloudevents.parse import read_publication
from oncecast.producer.cloudevents.publishable import EVENT_MAX_BYTES
from oncecast.testing.bench import Bench
from oncecast.testing.results import Result, Statement
from oncecast.testing.scripted import Answer
from oncecast.testing.stores import MemoryStores, PostgresStores

FOLLOWED_MAX = 1_000
FROM_LIFESPAN: Any = object()

EventLike = Event | Mapping[str, Any]


class TestListener:
    """Attempts what is sent with the handlers of `app`, as a listener would, but at once.

    In memory there is no SQL: statements are written down (`Result.statements`), and `answer` tells what they return.
    With `postgres=True` they run on a real embedded PostgreSQL (the extra `embedded`), in a database of its own that
    goes at the end; with a URL, on that server. The application's lifespan runs meanwhile, unless `state` stands in
    for what it yields. `timeout_s` is the time of a transaction's handlers; `clock` says what time it is. What is not
    named here is as a listener's settings have it by default.
    """

    __test__ = False

    def __init__(
        self,
        app: Listener,
        *,
        postgres: bool | str = False,
        state: Any = FROM_LIFESPAN,
        timeout_s: float = 60.0,
        event_attempts: int = 3,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._app = app
        self._state = state
        self._clock = clock
        self._limits = AttemptLimits(
            handler_timeout_s=timeout_s, event_attempts=event_attempts, db_attempts=1, db_retry_delay_s=0.0
        )
        self._stores: MemoryStores | PostgresStores = (
            PostgresStores(postgres, handler_timeout_s=timeout_s) if postgres else MemoryStores()
        )
        self._bench: Bench | None = None
        self._one_at_a_time = asyncio.Lock()
        self._exit = AsyncExitStack()
        self.emitted: list[Event] = []
        """All that was emitted and committed so far."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._stores)
            alive = self._app.alive() if self._state is FROM_LIFESPAN else self._app.given(self._state)
            await stack.enter_async_context(alive)
            self._bench = Bench(self._app, self._stores, self._limits, self.emitted.extend, self._clock)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._bench = None
        await self._exit.__aexit__(*error)

    async def send(self, event: EventLike, *, follow: bool = False) -> Result:
        """Attempt one event until it has ended; with `follow`, what it emits too, and so on.

        A mapping becomes an event as a producer makes one of a JSON object: a *bare* one has its `id` and `type`
        from there, and all of it as data.

        Raises ValueError for what no producer would accept; NotEnded if a listener would keep the event, since it
        fails of the database's trouble; in memory Unanswered if a handler fetches rows that nobody has told.
        """
        return (await self.send_all([event], follow=follow))[0]

    async def send_all(self, events: Iterable[EventLike], *, follow: bool = False) -> list[Result]:
        """Attempt events that arrive together, as a listener would: those that may be in one transaction are.

        Results are in the order of `events`; see `send`.
        """
        raws = [_accepted(event) for event in events]
        if not raws:
            return []
        async with self._one_at_a_time:
            results = await self._end(raws)
            if follow:
                await self._follow(results)
        return results

    async def _follow(self, results: Sequence[Result]) -> None:
        """Level by level, until nothing new is emitted."""
        count = 0
        while causes := [(result, event) for result in results for event in result.emitted]:
            count += len(causes)
            if count > FOLLOWED_MAX:
                raise OncecastError(f"more than {FOLLOWED_MAX} follow-ups: do two handlers emit for each other?")
            results = await self._end([event.to_json() for _, event in causes])
            for (cause, _), result in zip(causes, results, strict=True):
                cause.followed.append(result)

    async def _end(self, raws: Sequence[bytes]) -> list[Result]:
        bench = self._begun()
        try:
            return await bench.end(raws)
        finally:
            if isinstance(self._stores, MemoryStores):
                self._stores.raise_unanswered()

    # --- what handlers ran ---------------------------------------------------------------------------------

    @property
    def statements(self) -> list[Statement]:
        """All that handlers ran so far, of attempts that failed too."""
        return self._begun().watched.statements

    def answer(self, query: str, answer: Answer, *, params: Params = None, times: int | None = None) -> None:
        """In memory: from now on statements that begin with `query`, white space and capitals aside, return this.

        Rows as a list of dicts (or one); a number, how many rows a statement touches (one, unless told); or an
        exception, as psycopg raises it: `psycopg.errors.UniqueViolation`. It may be a function of the parameters.
        With `params` it is for statements with just these; with `times` so often, and then what was told before.
        """
        if not isinstance(self._stores, MemoryStores):
            raise OncecastError("PostgreSQL answers by itself: write what it shall have with t.execute(…)")
        self._stores.server.tell(query, answer, params=params, times=times)

    # --- the test's own SQL --------------------------------------------------------------------------------

    @property
    def database_url(self) -> str:
        """Where a real PostgreSQL is, for whatever makes the tables; it has a password."""
        return self._real().url

    async def execute(self, query: str, params: Params = None) -> int:
        """On a real PostgreSQL: run a statement of the test's own; without params, a script of several.

        Returns how many rows the last one touched.
        """
        return (await self._real().ask(query, params))[0]

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """On a real PostgreSQL: the first row by column name, or None."""
        rows = await self.fetch_all(query, params)
        return rows[0] if rows else None

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """On a real PostgreSQL: rows by column name. Oncecast's own tables are in the schema `oncecast`."""
        return (await self._real().ask(query, params))[1]

    def _real(self) -> PostgresStores:
        if not isinstance(self._stores, PostgresStores):
            raise OncecastError("in memory there is no SQL: TestListener(app, postgres=True) has a real PostgreSQL")
        self._begun()
        return self._stores

    def _begun(self) -> Bench:
        if self._bench is None:
            raise OncecastError("a TestListener works within: async with TestListener(app) as t")
        return self._bench


def _accepted(event: EventLike) -> bytes:
    """Its structured form, as a producer keeps it; raises ValueError if none would accept it."""
    try:
        body = event.to_json() if isinstance(event, Event) else encode(dict(event))
    except TypeError as error:
        raise ValueError(f"this is no event: {error}") from None
    try:
        (accepted,) = read_publication(body, JSON, Bare(), event_max_bytes=EVENT_MAX_BYTES).events
    except Problem as problem:
        raise ValueError(f"no producer would accept {event!r}: {problem}") from None
    return accepted
