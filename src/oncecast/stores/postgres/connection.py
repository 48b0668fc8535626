"""A psycopg connection whose socket the event loop keeps watching from one answer to the next.

psycopg itself adds and removes a watch and a timer for each answer, which took a tenth of a listener's time for an
event whose handler writes one row. See decision 024.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg.waiting import READY_RW, WAIT_W

from oncecast import forks


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTimes:
    """How a connection waits for an answer, in seconds."""

    cancel_s: float = 5.0
    """The time for a cancel request to reach the server, and the time for it to take effect; then the connection is
    closed."""
    cancel_again_s: float = 1.0
    check_interval_s: float = 0.25
    """How often a waiting task checks the socket and the deadline anyway: uvloop does not report an earlier reset."""


@dataclass(slots=True)
class _Watch:
    """What must be removed from the event loop, since libpq forgets the number of a closed socket."""

    loop: asyncio.AbstractEventLoop
    socket: int
    timer: asyncio.TimerHandle


class PostgresConnection(AsyncConnection[TupleRow]):
    """A psycopg.AsyncConnection that cancels its statement when the waiting task is cancelled."""

    times = AnswerTimes()
    writes = False
    """Whether the current statement commits by itself: to cancel its wait for a standby would leave it committed."""
    has_session_state = False
    """Whether a handler may have left state in the session."""
    reset = b""
    """The statements that undo it."""
    server_pid: bytes | None = None
    """The id of the server process, once the session is set up."""
    _watch: _Watch | None = None
    _awaited: asyncio.Future[None] | None = None
    _due_s = math.inf

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        forks.silence_in_children(self)
        # Behind a pooler that mixes sessions, two connections must not give their prepared statements the same name.
        self._prepared._prepared_idx = secrets.randbits(48)

    @property
    def is_clean(self) -> bool:
        """Whether it can be used again: it has no session state of a handler, and uses UTF-8."""
        return self.pgconn.parameter_status(b"client_encoding") == b"UTF8" and not self.has_session_state

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Return what `gen` returns. If the caller is cancelled, cancel the statement, and keep the connection."""
        if timeout is not None:
            self._unwatch()
            return await super().wait(gen, interval, timeout)
        return await self.answer(gen)

    async def answer(self, gen: PQGen[RV], deadline_s: float = math.inf, *, commits: bool = False) -> RV:
        """Wait as `wait` does, but for at most about `deadline_s`. Raises TimeoutError and cancels the statement.

        A statement that `commits` is never cancelled, because a COMMIT that waits for a standby would be complete
        then. The connection is closed instead, and the outcome is unknown.
        """
        self._due_s = asyncio.get_running_loop().time() + deadline_s
        try:
            return await self._answer(gen)
        except (asyncio.CancelledError, TimeoutError, KeyboardInterrupt, SystemExit):
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                if commits or self.writes:
                    self._break()
                else:
                    await self._cancel(gen)
            raise

    async def close(self) -> None:
        """Close the connection, and wake a task that waits for an answer."""
        self._unwatch()
        await super().close()
        self._wake()

    async def _answer(self, gen: PQGen[RV], *, has_begun: bool = False) -> RV:
        try:
            wanted = self._go_on(gen) if has_begun else next(gen)
            while True:
                await self._ready(to_write=wanted & WAIT_W)
                wanted = self._go_on(gen)
        except StopIteration as end:
            answer: RV = end.value
            return answer
        finally:
            if self.pgconn.status != ConnStatus.OK:
                self._unwatch()  # libpq has closed the socket, and its number may soon be used again

    def _go_on(self, gen: PQGen[RV]) -> int:
        """Let `gen` read and write what it can. Needs no ready socket, but an open one: libpq frees its memory."""
        if self.pgconn.status != ConnStatus.OK:
            raise psycopg.OperationalError("the connection is closed")
        return gen.send(READY_RW)

    async def _ready(self, *, to_write: int) -> None:
        """Wait until there is something to read, or room to write."""
        watch = self._watch or self._begin_watch()
        self._awaited = watch.loop.create_future()
        try:
            if to_write:
                watch.loop.add_writer(watch.socket, self._wake)
            await self._awaited
        finally:
            self._awaited = None
            if to_write and self._watch is watch:
                watch.loop.remove_writer(watch.socket)

    def _begin_watch(self) -> _Watch:
        loop, socket = asyncio.get_running_loop(), self.pgconn.socket
        loop.add_reader(socket, self._wake)
        self._watch = _Watch(loop, socket, loop.call_later(self.times.check_interval_s, self._check))
        return self._watch

    def _wake(self) -> None:
        if self._awaited is None:
            self._unwatch()  # unexpected data, such as when the server ends the session
        elif not self._awaited.done():
            self._awaited.set_result(None)

    def _check(self) -> None:
        loop, awaited = asyncio.get_running_loop(), self._awaited
        if awaited is not None and not awaited.done() and loop.time() >= self._due_s:
            awaited.set_exception(TimeoutError())
        else:
            self._wake()
        if self._watch is not None:
            self._watch.timer = loop.call_later(self.times.check_interval_s, self._check)

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.timer.cancel()
            watch.loop.remove_reader(watch.socket)
            watch.loop.remove_writer(watch.socket)

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
            self._break()
            if not isinstance(error, (psycopg.Error, TimeoutError)):
                raise
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            self._break()

    async def _ends_when_asked(self, gen: PQGen[Any]) -> bool:
        """Request a cancellation; return whether the statement ended soon after. It must have begun on the server."""
        try:
            await self.cancel_safe(timeout=self.times.cancel_s)
        except psycopg.errors.CancellationTimeout:
            raise  # the request may still arrive, and cancel a later statement
        except psycopg.Error:
            pass  # refused: the statement may end by itself
        self._due_s = asyncio.get_running_loop().time() + self.times.cancel_again_s
        try:
            await self._answer(gen, has_begun=True)
        except TimeoutError:
            return False
        except psycopg.Error:
            pass  # the error of the cancelled statement
        return True

    def _break(self) -> None:
        self._unwatch()
        self.pgconn.finish()
