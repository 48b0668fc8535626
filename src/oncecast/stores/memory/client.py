"""A client of the MemoryPostgres: its calls, which may be lost or late, and the transaction of a handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from oncecast.core.errors import AttemptFailed, TransactionClosed, Unavailable
from oncecast.core.ports import DeadLetter, Transaction
from oncecast.stores.memory.call import Act, Call, at_once
from oncecast.stores.memory.postgres import MemoryPostgres, Session, Tables

EFFECT = "effect"
"""The one statement that a handler can run: it counts its parameter, an id."""
DIED_AT = "2000-01-01T00:00:00Z"


class Client:
    """Statements go through `call`, which may lose or delay them, or their answers."""

    def __init__(self, server: MemoryPostgres, *, instance: str, token: str, call: Call = at_once) -> None:
        self._server = server
        self._instance = instance
        self._token = token
        self._call = call

    @property
    def _tables(self) -> Tables:
        return self._server.tables

    def _now_s(self) -> float:
        """The server's clock."""
        return asyncio.get_running_loop().time()

    def _letter(self, identity: str) -> DeadLetter:
        row, letter = self._tables.rows[identity], self._tables.letters[identity]
        return DeadLetter(
            source=row.source,
            id=row.id,
            error=letter.error,
            attempts=letter.attempts,
            raw=letter.raw,
            died_at=DIED_AT,
            listener=letter.listener,
        )

    async def _do(self, act: Act) -> Any:
        try:
            return await self._call(act)
        except (TimeoutError, OSError) as error:
            raise Unavailable(f"PostgreSQL: {type(error).__name__}: {error}".rstrip(": ")) from error

    async def _finish(self, session: Session, work: Callable[[Transaction], Awaitable[None]]) -> None:
        """Run `work`, then commit; raises what it raises, after a roll-back."""
        facade = MemoryTransaction(session, self._do)
        try:
            await work(facade)
            facade.session = None
            committed = await self._do(lambda: self._server.commit(session))
        finally:
            facade.session = None
            if not session.ended.is_set():
                self._server.abandon(session)
        if not committed:
            raise AttemptFailed(
                "the transaction was rolled back, though the handler returned: it swallowed an SQL error"
            )


class MemoryTransaction:
    """The Transaction of an attempt: it knows the statement EFFECT, and that every other is an error."""

    def __init__(self, session: Session, do: Call) -> None:
        self.session: Session | None = session
        self._do = do

    async def execute(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> int:
        """See Transaction."""
        session = self.session
        if session is None:
            raise TransactionClosed("the transaction ended with its attempt")

        def execute() -> int:
            if session.ended.is_set():
                raise ConnectionError("terminated by another session")
            if query != EFFECT or not isinstance(params, Sequence):
                session.failed = True
                raise SyntaxError(query)
            session.effects[params[0]] = session.effects.get(params[0], 0) + 1
            return 1

        touched: int = await self._do(execute)
        return touched

    async def fetch_one(self, query: str, params: Any = None) -> dict[str, Any] | None:
        """There is nothing to fetch."""
        await self.execute(query, params)
        return None

    async def fetch_all(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        """There is nothing to fetch."""
        await self.execute(query, params)
        return []

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See Transaction."""
        session = self.session
        effects = dict(session.effects) if session is not None else {}
        try:
            yield
        except Exception:
            if session is not None:
                session.effects, session.failed = effects, False
            raise
