"""The facade that a handler writes through: it can do anything but break the promise.

A handler never holds the connection. It cannot end the transaction (the statement is refused before it is
sent), cannot reach beyond its attempt (the facade dies with it), and an SQL error that it swallows leaves the
transaction aborted, which COMMIT's command tag tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
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

_NESTED = r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))*"
_LEAVES_SESSION_STATE = re.compile(
    rf"set_config\s*\((?!{_NESTED},\s*(?:is_local\s*(?:=>|:=)\s*)?true\s*\))"
    r"|pg_(?:try_)?advisory_lock"
    r"|create\s+(?:or\s+replace\s+)?(?:local\s+|global\s+)?temp(?:orary)?\s(?!.*\son\s+commit\s+drop\b)"
    r'|\binto\s+temp(?:orary)?\s|\bpg_temp"?\.|\swith\s+hold\s'
    r"|(?:;|\bbegin|\bthen|\belse|\bloop)\s+(?:re)?set\s+(?!local\s|constraints\s)",
    re.IGNORECASE | re.DOTALL,
).search
"""What may stay with the session beyond the transaction, besides what is refused: of the usual ways to say it."""

KNOWN_MAX_CHARS = 4_096
"""Of a statement of which it is remembered whether it leaves traces: longer ones are seldom run again."""

_SESSION_CONTROL = frozenset(("deallocate", "discard", "listen", "reset", "set", "unlisten"))


class HandlerTransaction:
    """See `oncecast.Transaction`. Calls may not overlap: a second one waits for the first."""

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
        self._monotonic_s = clock.monotonic_s  # called for every statement
        self._undo_s = undo_s
        self._take_key = take_key
        self._statement_timeout_s = statement_timeout_s
        self._interrupted = False
        self.is_cancelled = False
        """Whether the listener itself cancels the statement that is under way: that is no interruption."""
        self._emitted: list[bytes] = []
        self._raised = deque[BaseException](maxlen=RAISED_KEPT)
        self._inconsistency: str | None = None
        self._one_at_a_time = asyncio.Lock()
        self._asked = 0
        """How many statements are under way or wait: a lock that was just released does not tell of those."""
        self._savepoints = Savepoints()

    @property
    def emitted(self) -> list[bytes]:
        """See OpenTransaction; once the attempt is over nobody can emit any more."""
        self._open()
        self._savepoints.note()
        return self._emitted

    @property
    def raised(self) -> Sequence[BaseException]:
        """See OpenTransaction."""
        return self._raised

    @property
    def inconsistency(self) -> str | None:
        """Why it must not commit: a part of it that was to be rolled back is there, or one that was not is gone."""
        return self._inconsistency or self._savepoints.fault

    def is_interrupted_by(self, status: int) -> bool:
        """Whether a transaction in `status` is aborted, and a statement of it was cancelled by another session."""
        return self._interrupted and status == TransactionStatus.INERROR

    async def execute(self, query: str, params: Params = None) -> int:
        """Run one statement; returns the number of rows that it touched."""
        return (await self._handlers_own(query, params, tuple_row)).rowcount

    async def fetch_one(self, query: str, params: Params = None) -> dict[str, Any] | None:
        """The first row by column name, or None."""
        return await (await self._handlers_own(query, params, dict_row)).fetchone()

    async def fetch_all(self, query: str, params: Params = None) -> list[dict[str, Any]]:
        """All rows by column name."""
        return await (await self._handlers_own(query, params, dict_row)).fetchall()

    async def take(self, key: str) -> None:
        """See OpenTransaction."""
        # rule: a replay locks the key of its event
        if await (await self._run(self._take_key, {"key": key})).fetchone() != (True,):
            error = NotNext(f"another event of {key[:80]} is under way")
            self._raised.append(error)
            raise error

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A stretch whose SQL errors the handler means to survive. One that is cancelled is rolled back, too."""
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
        """Roll back to it; where that cannot be, the attempt fails, whatever its handler makes of it."""
        inconsistent_before, self._inconsistency = self._inconsistency, "a savepoint could not be rolled back"
        with contextlib.suppress(psycopg.Error, TransactionClosed, TimeoutError):
            async with asyncio.timeout(self._undo_s):
                await self._run(f"rollback to savepoint {savepoint}")
            self._inconsistency = inconsistent_before

    async def end(self, deadline_s: float) -> None:
        """The attempt is over, once all is that was asked for: nobody who kept the facade can do more with it."""
        # rule: a transaction ends after every statement that its handler began
        if self._asked:
            async with asyncio.timeout(deadline_s), self._one_at_a_time:
                pass
        self.close()

    def close(self) -> None:
        """The attempt is over, and so is its connection."""
        self._connection = None

    def _open(self) -> PostgresConnection:
        if self._connection is None:
            raise TransactionClosed("the transaction ended with its attempt: do not keep it beyond the handler")
        if forks.is_child():
            raise TransactionClosed("a forked process has no transaction: only its parent may use it")
        return self._connection

    async def _handlers_own(self, query: str, params: Params, rows: AsyncRowFactory[Any]) -> AsyncCursor[Any]:
        refuse_transaction_control(query)
        if leaves_session_state(query):
            self._open().has_session_state = True
        return await self._run(query, params, rows, handler_error=True)

    async def _run(
        self,
        query: str | bytes,
        params: Params = None,
        rows: AsyncRowFactory[Any] = tuple_row,
        *,
        handler_error: bool = False,
    ) -> AsyncCursor[Any]:
        """One statement at a time, whose error is remembered."""
        self._asked += 1
        asked_at_s = self._monotonic_s()
        try:
            async with self._one_at_a_time:
                connection = self._open()
                if isinstance(query, str) and handler_error:
                    self._savepoints.note(query)
                cursor = AsyncCursor(connection, row_factory=rows)
                # Prepared at once: then the server takes a single statement only, so that no COMMIT can hide
                # behind another one.
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
            f"a handler may not run {word.upper()}: its connection is shared with other events; use SET LOCAL"
        )
    if word in _TRANSACTION_CONTROL:
        raise TransactionClosed(
            f"a handler may not run {word.upper()}: its transaction commits with the event;"
            " use 'async with tx.savepoint()' for errors that it means to survive"
        )


def leaves_session_state(query: str) -> bool:
    """Whether a later event would find something of the statement, were it given the same session."""
    return _known_to(query) if len(query) <= KNOWN_MAX_CHARS else _LEAVES_SESSION_STATE(query) is not None


@lru_cache
def _known_to(query: str) -> bool:
    return _LEAVES_SESSION_STATE(query) is not None


def _first_words(query: str) -> tuple[str, str]:
    """The statement's first two words, in small letters, behind white space and comments (which nest)."""
    at = 0 if query[:1].isalpha() else _end_of(_BLANK, query, 0)
    while query.startswith("/*", at):
        depth = 0
        while edge := _COMMENT_EDGE.search(query, at):
            at = edge.end()
            depth += 1 if edge.group() == "/*" else -1
            if not depth:
                break
        else:
            return "", ""  # never closed: the server will say so
        at = _end_of(_BLANK, query, at)
    match = _WORDS.match(query, at)
    return (match.group(1).lower(), (match.group(2) or "").lower()) if match else ("", "")


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
