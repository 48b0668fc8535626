"""A client of the MemoryPostgres: its calls, which may be lost or late, and the transaction of a handler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from oncecast.core.errors import AttemptFailed, OutOfTurn, TransactionClosed, Unavailable
from oncecast.core.ports import Work
from oncecast.core.transaction import Params
from oncecast.stores.memory.call import Act, Call, at_once
from oncecast.stores.memory.postgres import MemoryPostgres, Session, Tables


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

    async def _do(self, act: Act) -> Any:
        try:
            return await self._call(act)
        except (TimeoutError, OSError) as error:
            raise Unavailable(f"PostgreSQL: {type(error).__name__}: {error}".rstrip(": ")) from error

    async def _finish(self, session: Session, work: Work) -> None:
        """Run `work`, then commit; raises what it raises, after a roll-back."""
        facade = MemoryTransaction(self._server, session, self._do)
        try:
            await work(facade)
            session.emitted = facade.emitted
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
    """The Transaction of an attempt: what its statements do, the server knows."""

    def __init__(self, server: MemoryPostgres, session: Session, do: Call) -> None:
        self.session: Session | None = session
        self._server = server
        self._do = do
        self._emitted: list[bytes] = []

    @property
    def emitted(self) -> list[bytes]:
        """See OpenTransaction."""
        if self.session is None:
            raise TransactionClosed("the transaction ended with its attempt")
        return self._emitted

    async def execute(self, query: str, params: Params = None) -> int:
        """See Transaction."""
        return (await self._run(query, params))[0]

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """See Transaction."""
        _, rows = await self._run(query, params)
        return rows[0] if rows else None

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """See Transaction."""
        return (await self._run(query, params))[1]

    async def _run(self, query: str, params: Params) -> tuple[int, list[dict[str, Any]]]:
        session = self.session
        if session is None:
            raise TransactionClosed("the transaction ended with its attempt")

        def run() -> tuple[int, list[dict[str, Any]]]:
            if session.ended.is_set():
                raise ConnectionError("terminated by another session")
            try:
                return self._server.answer(session, query, params)
            except Exception:
                session.failed = True
                raise

        answer: tuple[int, list[dict[str, Any]]] = await self._do(run)
        return answer

    async def take(self, key: str) -> None:
        """See OpenTransaction."""
        session = self.session
        if session is None:
            raise TransactionClosed("the transaction ended with its attempt")
        if not await self._do(lambda: self._server.try_lock(session, f"key {key}")):
            raise OutOfTurn(f"another event of {key} is under way")

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See Transaction."""
        session = self.session
        effects = dict(session.effects) if session is not None else {}
        emitted_before = len(self._emitted)
        try:
            yield
        except Exception:
            if session is not None:
                session.effects, session.failed = effects, False
                del self._emitted[emitted_before:]
            raise
