"""A connection of psycopg whose socket the event loop goes on watching, from one answer to the next.

For each answer psycopg itself begins and ends a watch and a timer: that was a tenth of what a listener spends on an
event whose handler writes one row. See decision 024.
"""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg.waiting import READY_RW, WAIT_W

CANCEL_S = 5.0
"""A statement whose caller was cancelled has to end in this time, or its connection is broken."""


class Connection(AsyncConnection[TupleRow]):
    """See psycopg.AsyncConnection."""

    _awaited: asyncio.Future[None] | None = None
    _watched: tuple[asyncio.AbstractEventLoop, int] | None = None
    """The loop that watches, and the socket: libpq forgets the number of one that it has closed."""

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """What `gen` returns. Where the caller is cancelled the statement is too, and the connection stays of use."""
        if timeout is not None:
            self._unwatch()
            return await super().wait(gen, interval, timeout)
        return await self.answer(gen)

    async def answer(self, gen: PQGen[RV], deadline_s: float | None = None) -> RV:
        """The same; raises TimeoutError where it takes longer than `deadline_s`, as if the caller were cancelled."""
        loop = asyncio.get_running_loop()
        timer = None if deadline_s is None else loop.call_later(deadline_s, self._run_out)
        try:
            return await self._answer(gen, None)
        except (asyncio.CancelledError, TimeoutError, KeyboardInterrupt, SystemExit):
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self._cancel(gen)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def close(self) -> None:
        """Close it; whoever waits for an answer is told."""
        self._unwatch()
        await super().close()
        self._wake()

    async def _answer(self, gen: PQGen[RV], sent: int | None) -> RV:
        try:
            while True:
                wanted = gen.send(sent)  # type: ignore[arg-type]  # None begins it
                await self._ready(to_write=wanted & WAIT_W)
                sent = READY_RW  # to try in vain does no harm
        except StopIteration as end:
            answer: RV = end.value
            return answer
        finally:
            if self.pgconn.status != ConnStatus.OK:
                self._unwatch()  # libpq has closed the socket, and the number may be another's by the next turn

    async def _ready(self, *, to_write: int) -> None:
        """Until there is something to read, or room to write."""
        if self._watched is None:
            self._watched = asyncio.get_running_loop(), self.pgconn.socket
            self._watched[0].add_reader(self._watched[1], self._wake)
        loop, socket = self._watched
        self._awaited = loop.create_future()
        if to_write:
            loop.add_writer(socket, self._wake)
        try:
            await self._awaited
        finally:
            self._awaited = None
            if to_write and self._watched is not None:
                loop.remove_writer(socket)

    def _wake(self) -> None:
        if self._awaited is None:
            self._unwatch()  # something came that nobody waits for, as when the server ends the session
        elif not self._awaited.done():
            self._awaited.set_result(None)

    def _run_out(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(TimeoutError())

    def _unwatch(self) -> None:
        if self._watched is not None:
            (loop, socket), self._watched = self._watched, None
            loop.remove_reader(socket)
            loop.remove_writer(socket)

    async def _cancel(self, gen: PQGen[RV]) -> None:
        """Have the server end what it is at; a connection where that cannot be is broken."""
        is_over = False
        try:
            async with asyncio.timeout(CANCEL_S):
                await self.cancel_safe(timeout=CANCEL_S)
                with contextlib.suppress(psycopg.errors.QueryCanceled):
                    await self._answer(gen, READY_RW)
            is_over = True
        except (psycopg.Error, TimeoutError):
            pass
        finally:
            if not is_over:
                self._unwatch()
                self.pgconn.finish()
