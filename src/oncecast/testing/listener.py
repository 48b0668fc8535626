"""TestListener: send events to the handlers of an application, and get their results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from oncecast.app.application import App
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.clock import Clock
from oncecast.core.errors import OncecastError
from oncecast.core.transaction import Params
from oncecast.event import Event, encode
from oncecast.http.problems import Problem
from oncecast.listener.pipeline.attempt import AttemptLimits
from oncecast.producer.cloudevents.bare import JSON, Bare
from oncecast.producer.cloudevents.parse import read_publication
from oncecast.producer.cloudevents.publishable import EVENT_MAX_BYTES
from oncecast.testing.pipeline import TestPipeline
from oncecast.testing.results import Result, Statement
from oncecast.testing.scripted import ScriptedAnswer
from oncecast.testing.stores import MemoryStores, PostgresStores

FOLLOWED_MAX = 1_000
FROM_LIFESPAN: Any = object()

EventLike = Event | Mapping[str, Any]


class TestListener:
    """Runs the handlers of `app` on the events that a test sends, in the same way as a listener, without delays.

    In memory there is no SQL: the test listener records statements (`Result.statements`), and `answer` says what they
    return. With `postgres=True`, statements run on a real embedded PostgreSQL (extra `embedded`), in a database of
    its own that is dropped at the end; with a URL, on that server. The application's lifespan runs, unless `state`
    replaces the object that it yields. `timeout_s` is the time of a transaction's handlers. All other settings have
    the defaults of a listener.
    """

    __test__ = False

    def __init__(
        self,
        app: App,
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
            PostgresStores(postgres, clock, handler_timeout_s=timeout_s) if postgres else MemoryStores()
        )
        self._pipeline: TestPipeline | None = None
        self._one_at_a_time = asyncio.Lock()
        self._exit = AsyncExitStack()
        self.emitted: list[Event] = []
        """All events that were emitted and committed so far."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._stores)
            alive = self._app.alive() if self._state is FROM_LIFESPAN else self._app.given(self._state)
            await stack.enter_async_context(alive)
            self._pipeline = TestPipeline(self._app, self._stores, self._limits, self.emitted.extend, self._clock)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._pipeline = None
        await self._exit.__aexit__(*error)

    async def send(self, event: EventLike, *, follow: bool = False) -> Result:
        """Attempt one event until it has ended. With `follow`, also attempt the events that it emits, and so on.

        A mapping becomes an event as at a producer: a bare event has its `id` and `type` from the mapping, and the
        whole mapping as data.

        Raises ValueError for an event that no producer would accept, and NotEnded if a listener would keep the event
        because of database errors. In memory, raises Unanswered if a handler fetches rows that the test has not
        answered.
        """
        return (await self.send_all([event], follow=follow))[0]

    async def send_all(self, events: Iterable[EventLike], *, follow: bool = False) -> list[Result]:
        """Attempt events that arrive together, as a listener would: in a common transaction where handlers allow it.

        Return the results in the order of `events`. See `send`.
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
        """Send follow-ups level by level, until no more are emitted."""
        count = 0
        while causes := [(result, event) for result in results for event in result.emitted]:
            count += len(causes)
            if count > FOLLOWED_MAX:
                raise OncecastError(f"more than {FOLLOWED_MAX} follow-ups: do two handlers emit for each other?")
            results = await self._end([event.to_json() for _, event in causes])
            for (cause, _), result in zip(causes, results, strict=True):
                cause.followed.append(result)

    async def _end(self, raws: Sequence[bytes]) -> list[Result]:
        pipeline = self._begun()
        try:
            return await pipeline.end(raws)
        finally:
            if isinstance(self._stores, MemoryStores):
                self._stores.raise_unanswered()

    # --- what handlers ran ---------------------------------------------------------------------------------

    @property
    def statements(self) -> list[Statement]:
        """All statements that handlers ran so far, including those of failed attempts."""
        return self._begun().watched.statements

    def answer(self, query: str, answer: ScriptedAnswer, *, params: Params = None, times: int | None = None) -> None:
        """In memory: say what statements that begin with `query` return, ignoring white space and case.

        An answer is rows as a list of dicts (or one dict); the number of affected rows (1 by default); an exception
        of psycopg, such as `psycopg.errors.UniqueViolation`; or a function of the parameters. `params` restricts the
        answer to these parameters. `times` restricts it to a number of calls; then the previous answer applies again.
        """
        if not isinstance(self._stores, MemoryStores):
            raise OncecastError("with a real PostgreSQL there are no scripted answers: insert rows with t.execute(…)")
        self._stores.server.add_answer(query, answer, params=params, times=times)

    # --- the test's own SQL --------------------------------------------------------------------------------

    @property
    def database_url(self) -> str:
        """On a real PostgreSQL: the URL of the database, with its password."""
        return self._real().url

    async def execute(self, query: str, params: Params = None) -> int:
        """On a real PostgreSQL: run a statement of the test; without params, several statements are allowed.

        Return the number of rows that the last statement affected.
        """
        return (await self._real().ask(query, params))[0]

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """On a real PostgreSQL: return the first row by column name, or None."""
        rows = await self.fetch_all(query, params)
        return rows[0] if rows else None

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """On a real PostgreSQL: return all rows by column name. Oncecast's tables are in the schema `oncecast`."""
        return (await self._real().ask(query, params))[1]

    def _real(self) -> PostgresStores:
        if not isinstance(self._stores, PostgresStores):
            raise OncecastError("in memory there is no SQL: TestListener(app, postgres=True) has a real PostgreSQL")
        self._begun()
        return self._stores

    def _begun(self) -> TestPipeline:
        if self._pipeline is None:
            raise OncecastError("use a TestListener as a context manager: async with TestListener(app) as t")
        return self._pipeline


def _accepted(event: EventLike) -> bytes:
    """Return the event as a producer stores it; raises ValueError if a producer would refuse it."""
    try:
        body = event.to_json() if isinstance(event, Event) else encode(dict(event))
    except TypeError as error:
        raise ValueError(f"not an event: {error}") from None
    try:
        (accepted,) = read_publication(body, JSON, Bare(), event_max_bytes=EVENT_MAX_BYTES).events
    except Problem as problem:
        raise ValueError(f"no producer would accept {event!r}: {problem}") from None
    return accepted
