"""A client of MemoryPostgres: calls that may be lost or late, and the transaction of a handler."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from inspect import isawaitable
from typing import Any, overload

from oncecast.core.dead_letter_ports import DeadLetter, ReplayWork
from oncecast.core.errors import AttemptFailed, NotNext, TransactionClosed, Unavailable, root_error
from oncecast.core.event import Arrival
from oncecast.core.ports import Work
from oncecast.core.savepoints import Savepoints
from oncecast.core.transaction import RAISED_KEPT, Params
from oncecast.testing.memory.call import Act, ServerCall, T, at_once
from oncecast.testing.memory.postgres import MemoryPostgres, Session, Tables


class Client:
    """A client whose statements go through `call`, which may lose or delay them or their answers."""

    def __init__(self, server: MemoryPostgres, *, instance: str, token: str, call: ServerCall = at_once) -> None:
        self._server = server
        self._instance = instance
        self._token = token
        self._call = call
        self.incarnation = server.incarnation
        """The incarnation of the server that answered last."""

    @property
    def _tables(self) -> Tables:
        return self._server.tables

    def _now_s(self) -> float:
        """Return the time of the server."""
        return asyncio.get_running_loop().time()

    def _dead_letter(self, identity: str) -> DeadLetter:
        row, dead_letter = self._tables.rows[identity], self._tables.dead_letters[identity]
        return DeadLetter(
            source=row.source,
            id=row.id,
            error=dead_letter.error,
            attempts=dead_letter.attempts,
            raw=dead_letter.raw,
            died_at=dead_letter.died_at,
            listener=dead_letter.listener,
        )

    @overload
    async def _do(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T: ...
    @overload
    async def _do(self, act: Callable[[], T]) -> T: ...
    async def _do(self, act: Act) -> Any:
        def stamped() -> Any:
            """Return the result with the incarnation of the server."""
            result = act()
            return self._stamp(result) if isawaitable(result) else (result, self._server.incarnation)

        try:
            result, incarnation = await self._call(stamped)
        except (TimeoutError, OSError) as error:
            raise Unavailable(f"PostgreSQL: {type(error).__name__}: {error}".rstrip(": ")) from error
        if int(incarnation) < int(self.incarnation):
            raise Unavailable("PostgreSQL: the answer of a server that has been replaced")
        self.incarnation = incarnation
        return result

    async def _stamp(self, result: Awaitable[Any]) -> tuple[Any, str]:
        return await result, self._server.incarnation

    async def _replay(
        self, session: Session, store: Callable[[], Coroutine[Any, Any, Arrival | None]], work: ReplayWork
    ) -> bool:
        """Run `store`, and then `work` with the event that it stored; False if it stored none."""
        arrival = None
        try:
            arrival = await self._do(store)
        finally:
            if arrival is None and not session.ended.is_set():
                self._server.abandon(session)
        if arrival is None:
            return False
        await self._finish(session, partial(work, arrival))
        return True

    async def _finish(self, session: Session, work: Work) -> None:
        """Run `work` and commit; after an error, roll back and raise it."""
        facade = MemoryTransaction(self._server, session, self._do)
        try:
            await _run(work, facade)
            if facade.inconsistency:
                raise AttemptFailed(facade.inconsistency)
            # rule: emitted events commit together with their cause
            session.emitted = facade.emitted
            facade.session = None
            committed = await self._do(lambda: self._server.commit(session))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise AttemptFailed("the handler was cancelled by a task of its own") from None
        finally:
            facade.session = None
            if not session.ended.is_set():
                self._server.abandon(session)
        # rule: only the COMMIT tag proves a commit
        if not committed:
            raise AttemptFailed(
                "the transaction was rolled back although the handler returned, because it swallowed an SQL error;"
                " use 'async with tx.savepoint()' around statements that may fail"
            )


async def _run(work: Work, facade: MemoryTransaction) -> None:
    """Run the application's code; any error that it raises is the outcome of the attempt."""
    try:
        await work(facade)
    except Exception as error:
        failure = root_error(error, facade.raised)
        if failure is error:
            raise
        raise failure from error


class MemoryTransaction:
    """The Transaction of an attempt; the server executes its statements."""

    def __init__(self, server: MemoryPostgres, session: Session, do: ServerCall) -> None:
        self.session: Session | None = session
        self._server = server
        self._do = do
        self._emitted: list[bytes] = []
        self._raised = deque[BaseException](maxlen=RAISED_KEPT)
        self._savepoints = Savepoints()

    @property
    def emitted(self) -> list[bytes]:
        """The events that handlers emitted in this transaction."""
        self._open()
        self._savepoints.note()
        return self._emitted

    @property
    def inconsistency(self) -> str | None:
        """Why the transaction must not commit; None if it may."""
        return self._savepoints.fault

    @property
    def raised(self) -> Sequence[BaseException]:
        """The errors that statements raised."""
        return self._raised

    async def execute(self, query: str, params: Params = None) -> int:
        """Run a statement; return the number of affected rows."""
        return (await self._run(query, params, fetch=False))[0]

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """Run a statement; return its first row, or None."""
        _, rows = await self._run(query, params, fetch=True)
        return rows[0] if rows else None

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """Run a statement; return its rows."""
        return (await self._run(query, params, fetch=True))[1]

    async def _run(self, query: str, params: Params, *, fetch: bool) -> tuple[int, list[dict[str, Any]]]:
        session = self._open()

        def run() -> tuple[int, list[dict[str, Any]]]:
            if session.ended.is_set():
                raise ConnectionError("terminated by another session")
            self._server.check(query, params)
            self._server.check_goes_on(session)
            try:
                return self._server.answer(session, query, params, fetch=fetch)
            except Exception:
                session.failed = True
                raise

        self._savepoints.note(query)
        answer: tuple[int, list[dict[str, Any]]] = await self._ask(run)
        return answer

    async def _ask(self, act: Act) -> Any:
        try:
            return await self._do(act)
        except Exception as error:
            self._raised.append(error)
            raise

    async def take(self, key: str) -> None:
        """Lock an ordering key until the transaction ends; raises NotNext."""
        session = self._open()

        def lock() -> None:
            if not self._server.try_lock(session, f"key {key}"):
                raise NotNext(f"another event of {key} is in progress")

        await self._ask(lock)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Return a context that rolls back to its start after an error."""
        session = self._open()
        self._server.check_goes_on(session)
        effects = dict(session.effects)
        emitted_before = len(self._emitted)
        number = self._savepoints.new()
        with self._savepoints.block_of(number):
            try:
                yield
            except (Exception, asyncio.CancelledError):
                session.effects, session.failed = effects, False
                # rule: a savepoint that rolls back drops the events emitted in it
                del self._emitted[emitted_before:]
                self._savepoints.undone(number)
                raise
        self._server.check_goes_on(session)

    def _open(self) -> Session:
        if self.session is None:
            raise TransactionClosed("the transaction ended with its attempt: do not use it after the handler")
        return self.session
