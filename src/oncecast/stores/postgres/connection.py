"""A psycopg connection that keeps its session when a statement is cancelled, and never cancels a COMMIT."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection, waiting
from psycopg.abc import RV, PQGen
from psycopg.errors import _WaitTimeout as WaitTimeout
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg.waiting import READY_R

from oncecast import forks

CHECK_INTERVAL_S = 0.1
"""How often a waiting task reads the socket anyway: uvloop does not report an earlier reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTimes:
    """How a connection cancels a statement, in seconds."""

    cancel_s: float = 5.0
    """The time for a cancel request to reach the server, and the time for it to take effect; then the connection is
    closed."""
    cancel_again_s: float = 1.0


class PostgresConnection(AsyncConnection[TupleRow]):
    """A psycopg.AsyncConnection that cancels its statement when the waiting task is cancelled."""

    times = AnswerTimes()
    writes = False
    """Whether the current statement commits by itself: to cancel its wait for a standby would leave it committed."""
    has_session_state = False
    """Whether a handler may have left state in the session."""
    server_pid: bytes | None = None
    """The id of the server process, once the session is set up."""
    _is_closing = False
    incarnation = ""
    """The server's start time, once the session is set up."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        forks.silence_in_children(self)
        # Behind a pooler that mixes sessions, two connections must not give their prepared statements the same name.
        self._prepared._prepared_idx = secrets.randbits(48)
        self._unwatched = asyncio.Event()
        """Set while no event loop watches the socket, which must stay open until then."""
        self._unwatched.set()

    @property
    def is_clean(self) -> bool:
        """Whether it can be used again: it has no session state of a handler, and uses UTF-8."""
        return self.pgconn.parameter_status(b"client_encoding") == b"UTF8" and not self.has_session_state

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = CHECK_INTERVAL_S,
        timeout: float | None = None,
        *,
        commits: bool = False,
    ) -> RV:
        """Return what `gen` returns. If the caller is cancelled or out of time, cancel the statement.

        A statement that `commits` is never cancelled, because a COMMIT that waits for a standby would be complete
        then. The connection is closed instead, and the outcome is unknown.
        """
        try:
            return await self._answer(gen, timeout)
        except (asyncio.CancelledError, WaitTimeout, KeyboardInterrupt, SystemExit):
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                if commits or self.writes:
                    self.pgconn.finish()
                else:
                    await self._cancel(gen)
            raise

    async def close(self) -> None:
        """Close the connection, after a task that waits for an answer got an error."""
        self._is_closing = True
        await self._unwatched.wait()
        await super().close()

    async def _answer(self, gen: PQGen[RV], timeout_s: float | None, *, has_begun: bool = False) -> RV:
        self._unwatched.clear()
        try:
            guarded = self._while_open(gen, READY_R if has_begun else None)
            return await waiting.wait_async(guarded, self.pgconn.socket, CHECK_INTERVAL_S, timeout_s)
        finally:
            self._unwatched.set()

    def _while_open(self, gen: PQGen[RV], ready: Any) -> PQGen[RV]:
        """Run `gen`, but never resume it on a closed connection: libpq has freed its memory."""
        while not self._is_closing and self.pgconn.status == ConnStatus.OK:
            try:
                wanted = gen.send(ready)
            except StopIteration as end:
                answer: RV = end.value
                return answer
            ready = (yield wanted) or READY_R
        raise psycopg.OperationalError("the connection is closed")

    async def _cancel(self, gen: PQGen[RV]) -> None:
        """Have the server cancel the statement; close the connection if that fails."""
        # asyncio.timeout raises no TimeoutError on 3.11 in a task that is already cancelled, so check the time here.
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + self.times.cancel_s
        try:
            while not await self._ends_when_asked(gen):
                if loop.time() >= ends_at_s:
                    raise TimeoutError
        except BaseException as error:  # the state of the connection is unknown
            self.pgconn.finish()
            if not isinstance(error, (psycopg.Error, TimeoutError)):
                raise

    async def _ends_when_asked(self, gen: PQGen[Any]) -> bool:
        """Request a cancellation; return whether the statement ended soon after. It must have begun on the server."""
        try:
            await self.cancel_safe(timeout=self.times.cancel_s)
        except psycopg.errors.CancellationTimeout:
            raise  # the request may still arrive, and cancel a later statement
        except psycopg.Error:
            pass  # refused: the statement may end by itself
        try:
            await self._answer(gen, self.times.cancel_again_s, has_begun=True)
        except WaitTimeout:
            return False
        except psycopg.Error:
            pass  # the error of the cancelled statement
        return True
