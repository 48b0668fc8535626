"""The transaction object for handlers, through which they cannot break exactly-once processing.

A handler never gets the connection. It cannot end the transaction (the statement is refused before it is sent), and
cannot use it after its attempt. If it swallows an SQL error, the transaction stays aborted, and the command tag of
COMMIT shows that.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import AsyncRowFactory, dict_row, tuple_row

from oncecast import forks
from oncecast.core.clock import Clock
from oncecast.core.errors import AttemptFailed, NotNext, TransactionClosed
from oncecast.core.savepoints import Savepoints
from oncecast.core.transaction import RAISED_KEPT, Params
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.errors import is_interrupted

_BLANK = re.compile(r"(?:[\s;]|--[^\n\r]*(?:[\n\r]|$))*")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_WORDS = re.compile(r"([a-z]*)(?:\s+([a-z]*))?", re.IGNORECASE)
_TRANSACTION_CONTROL = frozenset(
    ("abort", "begin", "commit", "end", "prepare", "release", "rollback", "savepoint", "start")
)

_SESSION_CONTROL = frozenset(("deallocate", "discard", "listen", "reset", "set", "unlisten"))


class HandlerTransaction:
    """The OpenTransaction of an attempt. A call waits for the previous one."""

    def __init__(
        self,
        connection: PostgresConnection,
        take_key: bytes,
        clock: Clock,
        *,
        statement_timeout_s: float,
        undo_s: float,
    ) -> None:
        self._connection: PostgresConnection | None = connection
        self._monotonic_s = clock.monotonic_s  # a local reference, because every statement calls it
        self._undo_s = undo_s
        self._take_key = take_key
        self._statement_timeout_s = statement_timeout_s
        self._interrupted = False
        self.is_cancelled = False
        """Whether the listener itself cancels the current statement, which does not count as interrupted."""
        self._emitted: list[bytes] = []
        self._raised = deque[BaseException](maxlen=RAISED_KEPT)
        self._inconsistency: str | None = None
        self._one_at_a_time = asyncio.Lock()
        self._asked = 0
        """The number of running and waiting statements; a lock that was just released does not show the latter."""
        self._savepoints = Savepoints()

    @property
    def emitted(self) -> list[bytes]:
        """The follow-ups so far. Raises TransactionClosed after the attempt."""
        self._open()
        self._savepoints.note()
        return self._emitted

    @property
    def raised(self) -> Sequence[BaseException]:
        """The last errors of its statements."""
        return self._raised

    @property
    def inconsistency(self) -> str | None:
        """Why it must not commit: a savepoint could not be rolled back, or took other statements with it."""
        return self._inconsistency or self._savepoints.fault

    def is_interrupted_by(self, status: int) -> bool:
        """Return whether the transaction is aborted and another session cancelled a statement of it."""
        return self._interrupted and status == TransactionStatus.INERROR

    async def execute(self, query: str, params: Params = None) -> int:
        """Run one statement, and return the number of affected rows."""
        return (await self._handlers_own(query, params, tuple_row)).rowcount

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement, and return the first row by column name, or None."""
        return await (await self._handlers_own(query, params, dict_row)).fetchone()

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """Run one statement, and return all rows by column name."""
        return await (await self._handlers_own(query, params, dict_row)).fetchall()

    async def take(self, key: str) -> None:
        """Lock an ordered key until the transaction ends. Raises NotNext if another transaction has it."""
        # rule: a replay locks the key of its event
        if await (await self._run(self._take_key, {"key": key})).fetchone() != (True,):
            error = NotNext(f"another event of {key[:80]} is in progress")
            self._raised.append(error)
            raise error

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Open a savepoint: if the block raises or is cancelled, only the block is rolled back."""
        number = self._savepoints.new()
        name = f"handler_{number}"
        emitted_before = len(self._emitted)
        await self._run(f"savepoint {name}")
        with self._savepoints.block_of(number):
            try:
                yield
            except (Exception, asyncio.CancelledError):
                # rule: a savepoint that rolls back drops the events emitted in it
                del self._emitted[emitted_before:]
                await self._undo(name)
                self._savepoints.undone(number)
                raise
        await self._run(f"release savepoint {name}")

    async def _undo(self, savepoint: LiteralString) -> None:
        """Roll back to a savepoint; if that fails, the attempt fails even if the handler catches the error."""
        inconsistent_before, self._inconsistency = self._inconsistency, "a savepoint could not be rolled back"
        with contextlib.suppress(psycopg.Error, TransactionClosed, TimeoutError):
            async with asyncio.timeout(self._undo_s):
                await self._run(f"rollback to savepoint {savepoint}")
            self._inconsistency = inconsistent_before

    async def end(self, deadline_s: float) -> None:
        """Wait for running statements, then refuse further calls."""
        # rule: a transaction ends after every statement that its handler began
        if self._asked:
            async with asyncio.timeout(deadline_s), self._one_at_a_time:
                pass
        self.close()

    def close(self) -> None:
        """Refuse further calls."""
        self._connection = None

    def _open(self) -> PostgresConnection:
        if self._connection is None:
            raise TransactionClosed("the transaction ended with its attempt: do not use it after the handler")
        if forks.is_child():
            raise TransactionClosed("a forked process has no transaction: only its parent may use it")
        return self._connection

    async def _handlers_own(self, query: str, params: Params, rows: AsyncRowFactory[Any]) -> AsyncCursor[Any]:
        refuse_transaction_control(query)
        return await self._run(query, params, rows, handler_error=True)

    async def _run(
        self,
        query: str | bytes,
        params: Params = None,
        rows: AsyncRowFactory[Any] = tuple_row,
        *,
        handler_error: bool = False,
    ) -> AsyncCursor[Any]:
        """Run a statement after the previous one has ended, and record its error."""
        self._asked += 1
        asked_at_s = self._monotonic_s()
        try:
            async with self._one_at_a_time:
                connection = self._open()
                if isinstance(query, str) and handler_error:
                    self._savepoints.note(query)
                cursor = AsyncCursor(connection, row_factory=rows)
                # A prepared statement is always a single one, so that no COMMIT can follow another statement.
                await cursor.execute(query, params, prepare=handler_error or None)
                if connection.pgconn.transaction_status != TransactionStatus.INTRANS:
                    raise AttemptFailed("the statement ended the event's transaction")
                return cursor
        except Exception as error:
            self._raised.append(error)
            took_s = self._monotonic_s() - asked_at_s
            if not self.is_cancelled:
                self._interrupted |= is_interrupted(error, took_s=took_s, timeout_s=self._statement_timeout_s)
            raise
        finally:
            self._asked -= 1


def refuse_transaction_control(query: str) -> None:
    """Raise TransactionClosed if the statement would end or divide a transaction, or change the session."""
    word, second = _first_words(query)
    if word in _SESSION_CONTROL and second not in ("local", "constraints"):
        raise TransactionClosed(
            f"a handler may not run {word.upper()}: other events use its connection too; use SET LOCAL"
        )
    if word in _TRANSACTION_CONTROL:
        raise TransactionClosed(
            f"a handler may not run {word.upper()}: its transaction commits with the event;"
            " use 'async with tx.savepoint()' around statements that may fail"
        )


def _first_words(query: str) -> tuple[str, str]:
    """Return the first two words in lower case, after white space and (nested) comments."""
    at = 0 if query[:1].isalpha() else _end_of(_BLANK, query, 0)
    while query.startswith("/*", at):
        depth = 0
        while edge := _COMMENT_EDGE.search(query, at):
            at = edge.end()
            depth += 1 if edge.group() == "/*" else -1
            if not depth:
                break
        else:
            return "", ""  # an unclosed comment: the server reports it
        at = _end_of(_BLANK, query, at)
    match = _WORDS.match(query, at)
    return (match.group(1).lower(), (match.group(2) or "").lower()) if match else ("", "")


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
