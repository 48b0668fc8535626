"""An event store that records the statements and the errors of each attempt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import psycopg

from oncecast.core.errors import AttemptFailed
from oncecast.core.event import Arrival
from oncecast.core.outcomes import EarlierAttempts, Outcome
from oncecast.core.ports import EventStore, Work, WorkTogether
from oncecast.core.transaction import OpenTransaction, Params
from oncecast.stores.postgres.errors import handler_error
from oncecast.testing.results import Statement


class WatchedEvents:
    """`events` for the attempt stage, with a record of what handlers ran.

    In memory, errors that a test scripts are psycopg's; they are translated as in the PostgreSQL store.
    """

    def __init__(self, events: EventStore) -> None:
        self._events = events
        self.statements: list[Statement] = []
        """All statements that handlers ran."""
        self.last_ran: dict[int, list[Statement]] = {}
        """By offset: the statements of the event's last attempt that reached its handlers."""
        self.last_error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)

    async def insert(self, arrivals: Sequence[Arrival]) -> list[Outcome | EarlierAttempts]:
        """Insert rows of events without handlers; return their outcomes."""
        with self._remembering([]):
            return await self._events.insert(arrivals)

    async def process(self, arrival: Arrival, work: Work) -> Outcome | EarlierAttempts:
        """Run `work` and insert the row of an event in one transaction."""

        raised: list[Sequence[BaseException]] = []

        async def watched(tx: OpenTransaction) -> None:
            raised.append(tx.raised)
            await work(self._watch(tx, [arrival]))

        with self._remembering(raised):
            return await self._events.process(arrival, watched)

    async def process_together(
        self, arrivals: Sequence[Arrival], work: WorkTogether
    ) -> list[Outcome | EarlierAttempts]:
        """Run `work` for the new events and insert their rows in one transaction."""

        raised: list[Sequence[BaseException]] = []

        async def watched(tx: OpenTransaction, new: Sequence[Arrival]) -> None:
            raised.append(tx.raised)
            await work(self._watch(tx, new), new)

        with self._remembering(raised):
            return await self._events.process_together(arrivals, watched)

    def _watch(self, tx: OpenTransaction, arrivals: Sequence[Arrival]) -> WatchedTransaction:
        ran: list[Statement] = []
        self.last_ran.update((arrival.offset, ran) for arrival in arrivals)
        return WatchedTransaction(tx, [self.statements, ran])

    @contextmanager
    def _remembering(self, raised: Sequence[Sequence[BaseException]]) -> Iterator[None]:
        """Record the errors that the statements of each transaction `raised`."""
        try:
            yield
        except psycopg.Error as error:
            self.last_error = handler_error(
                error, [one for errors in raised for one in errors], connection_broken=False
            )
            if self.last_error is error:
                raise
            raise self.last_error from error
        except AttemptFailed as error:
            self.last_error = error
            if isinstance(error.__cause__, BaseException) and not isinstance(error.__cause__, Exception | SystemExit):
                raise error.__cause__ from None  # such as `pytest.fail` in a handler: the test's own outcome
            raise
        except Exception as error:
            self.last_error = error
            raise


class WatchedTransaction:
    """`tx`, which appends each statement to all of `notes`."""

    def __init__(self, tx: OpenTransaction, notes: Sequence[list[Statement]]) -> None:
        self._tx = tx
        self._notes = notes

    @property
    def emitted(self) -> list[bytes]:
        """The events that handlers emitted in this transaction."""
        return self._tx.emitted

    @property
    def raised(self) -> Sequence[BaseException]:
        """The errors that statements raised."""
        return self._tx.raised

    async def execute(self, query: str, params: Params = None) -> int:
        """Run a statement; return the number of affected rows."""
        self._note(query, params)
        return await self._tx.execute(query, params)

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """Run a statement; return its first row, or None."""
        self._note(query, params)
        return await self._tx.fetch_one(query, params)

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """Run a statement; return its rows."""
        self._note(query, params)
        return await self._tx.fetch_all(query, params)

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Return a context that rolls back to its start after an error."""
        return self._tx.savepoint()

    async def take(self, key: str) -> None:
        """Lock an ordering key until the transaction ends; raises NotNext."""
        await self._tx.take(key)

    def _note(self, query: str, params: Params) -> None:
        kept = dict(params) if isinstance(params, Mapping) else params if params is None else tuple(params)
        statement = Statement(" ".join(query.split()), kept)
        for notes in self._notes:
            notes.append(statement)
