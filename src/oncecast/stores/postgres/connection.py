"""A connection of psycopg whose socket the event loop goes on watching, from one answer to the next.

For each answer psycopg itself begins and ends a watch and a timer: that was a tenth of what a listener spends on an
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
    """A server that is asked to end a statement has so long to hear, and as long again to do it, or the connection is
    broken."""
    cancel_again_s: float = 1.0
    look_interval_s: float = 0.25
    """So often whoever waits looks in any case, and at the clock: uvloop says nothing of a socket reset before."""


@dataclass(slots=True)
class _Watch:
    """What to end: libpq forgets the number of a socket that it has closed."""

    loop: asyncio.AbstractEventLoop
    socket: int
    look: asyncio.TimerHandle


class PostgresConnection(AsyncConnection[TupleRow]):
    """See psycopg.AsyncConnection."""

    times = AnswerTimes()
    writes = False
    """Whether what is under way commits by itself: to cancel what waits for a standby is to have it committed."""
    has_session_state = False
    """Whether a handler may have left something that stays with the session."""
    server_pid: bytes | None = None
    """The process of the server that serves it, once the session is set up."""
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
        """Whether somebody else may have it now: in UTF-8, as our messages are, and with nothing of a handler's."""
        return self.pgconn.parameter_status(b"client_encoding") == b"UTF8" and not self.has_session_state

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """What `gen` returns. Where the caller is cancelled the statement is too, and the connection stays of use."""
        if timeout is not None:
            self._unwatch()
            return await super().wait(gen, interval, timeout)
        return await self.answer(gen)

    async def answer(self, gen: PQGen[RV], deadline_s: float = math.inf, *, commits: bool = False) -> RV:
        """The same; raises TimeoutError soon after `deadline_s`, as if the caller were cancelled.

        What `commits` is never cancelled, for a COMMIT that waits for a standby would be done then: nobody waits for
        its answer any more, and the connection is broken.
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
        """Close it; whoever waits for an answer is told."""
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
                self._unwatch()  # libpq has closed the socket, and the number may be another's by the next turn

    def _go_on(self, gen: PQGen[RV]) -> int:
        """Have it read and write what it can; to try in vain does no harm, but on memory that libpq has freed."""
        if self.pgconn.status != ConnStatus.OK:
            raise psycopg.OperationalError("the connection is closed")
        return gen.send(READY_RW)

    async def _ready(self, *, to_write: int) -> None:
        """Until there is something to read, or room to write."""
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
        self._watch = _Watch(loop, socket, loop.call_later(self.times.look_interval_s, self._look))
        return self._watch

    def _wake(self) -> None:
        if self._awaited is None:
            self._unwatch()  # something came that nobody waits for, as when the server ends the session
        elif not self._awaited.done():
            self._awaited.set_result(None)

    def _look(self) -> None:
        loop, awaited = asyncio.get_running_loop(), self._awaited
        if awaited is not None and not awaited.done() and loop.time() >= self._due_s:
            awaited.set_exception(TimeoutError())
        else:
            self._wake()
        if self._watch is not None:
            self._watch.look = loop.call_later(self.times.look_interval_s, self._look)

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.look.cancel()
            watch.loop.remove_reader(watch.socket)
            watch.loop.remove_writer(watch.socket)

    async def _cancel(self, gen: PQGen[RV]) -> None:
        """Have the server end what it is at; a connection where that cannot be is broken."""
        # By our own deadline: in a task that is cancelled already, asyncio.timeout raises no TimeoutError on 3.11.
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + self.times.cancel_s
        try:
            while not await self._ends_when_asked(gen):
                if loop.time() >= ends_at_s:
                    raise TimeoutError
        except BaseException as error:  # nobody knows what would come next on it
            self._break()
            if not isinstance(error, (psycopg.Error, TimeoutError)):
                raise
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            self._break()

    async def _ends_when_asked(self, gen: PQGen[Any]) -> bool:
        """Whether it ends soon after it was asked to. A server that had yet to begin with it did not hear."""
        try:
            await self.cancel_safe(timeout=self.times.cancel_s)
        except psycopg.errors.CancellationTimeout:
            raise  # the request may come yet, and end what is under way then
        except psycopg.Error:
            pass  # refused: it may end by itself
        self._due_s = asyncio.get_running_loop().time() + self.times.cancel_again_s
        try:
            await self._answer(gen, has_begun=True)
        except TimeoutError:
            return False
        except psycopg.Error:
            pass  # that of the statement: as it ended
        return True

    def _break(self) -> None:
        self._unwatch()
        self.pgconn.finish()
