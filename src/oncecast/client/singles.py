"""Events that are published one by one, by many tasks at a time: they share requests.

An event goes at once, alone; while `requests_max` requests are under way the next ones gather. Each has its own
outcome: one that is refused is taken out, and its company is sent again without it.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from dataclasses import dataclass

import msgspec

from oncecast.client.errors import NotAcknowledged, PublisherClosed, PublishRefused
from oncecast.client.outbox import SendBatch, that_fit
from oncecast.client.transport import ABOUT_THE_BODY, HttpTransport
from oncecast.core.event import Cursor


@dataclass(slots=True, eq=False)
class _Single:
    event: bytes
    outcome: asyncio.Future[Cursor]
    delivery: asyncio.Task[None] | None = None


class Singles:
    """Takes events, and gives each its cursor or its own error."""

    def __init__(
        self, transport: HttpTransport, *, deadline_s: float, events_max: int, bytes_max: int, requests_max: int
    ) -> None:
        self._transport = transport
        self._deadline_s = deadline_s
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._requests_max = requests_max
        self._waiting: deque[_Single] = deque()
        self._under_way: dict[asyncio.Task[None], list[_Single]] = {}
        self._closed = False

    async def publish(self, event: bytes) -> Cursor:
        """Its place, once it is on disk. Raises PublishRefused, NotAcknowledged, PublisherClosed.

        Cancelled, it is not sent any more if it has not been.
        """
        if self._closed:
            raise PublisherClosed
        single = _Single(event, asyncio.get_running_loop().create_future())
        self._waiting.append(single)
        self._begin()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await single.outcome
        except (TimeoutError, asyncio.CancelledError) as error:
            self._forsake(single)
            if isinstance(error, TimeoutError):
                raise NotAcknowledged(self._transport.reason, deadline_s=self._deadline_s) from None
            raise

    async def aclose(self) -> None:
        """End what is under way; whoever waits raises PublisherClosed."""
        self._closed = True
        waiting = [*self._waiting, *(single for singles in self._under_way.values() for single in singles)]
        self._waiting.clear()
        for single in waiting:
            _fail(single, PublisherClosed())
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self) -> None:
        while len(self._under_way) < self._requests_max and (singles := self._take()):
            delivery = asyncio.create_task(self._deliver(singles))
            for single in singles:
                single.delivery = delivery
            self._under_way[delivery] = singles
            delivery.add_done_callback(self._ended)

    def _ended(self, delivery: asyncio.Task[None]) -> None:
        error = None if delivery.cancelled() else delivery.exception()
        for single in self._under_way.pop(delivery):
            if error is not None:
                _fail(single, error)  # nothing that we know of: it reaches the caller as it is
            else:
                single.outcome.cancel()  # does nothing where there is one, as there is unless the loop is ending
        if not self._closed:
            self._begin()

    def _take(self) -> list[_Single]:
        singles: list[_Single] = []
        while self._waiting and len(singles) < self._events_max:
            single = self._waiting.popleft()
            if not single.outcome.done():
                singles.append(single)
        fit = that_fit([single.event for single in singles], self._bytes_max)
        self._waiting.extendleft(reversed(singles[fit:]))
        return singles[:fit]

    def _forsake(self, single: _Single) -> None:
        """Nobody waits for it any more. A request that nobody at all waits for is not worth going on with."""
        delivery = single.delivery
        if delivery is not None and all(other.outcome.done() for other in self._under_way.get(delivery, ())):
            delivery.cancel()

    async def _deliver(self, singles: list[_Single]) -> None:
        """Give each of them its outcome."""
        while singles:
            batch = SendBatch([single.event for single in singles], range(1, len(singles) + 1))
            try:
                accepted = await self._transport.deliver(batch)
                cursors = accepted.cursors()
            except PublishRefused as refused:
                singles = await self._take_out(refused, singles)
            except (NotAcknowledged, PublisherClosed) as error:
                return _fail_all(singles, error)
            except (ValueError, msgspec.MsgspecError):
                unreadable = PublishRefused("the acknowledgement names no cursor", status=202, accepted=1)
                return _fail_all(singles, unreadable)
            else:
                return _succeed(singles, cursors)
        return None

    async def _take_out(self, refused: PublishRefused, singles: list[_Single]) -> list[_Single]:
        """Those that are to be sent again, without whoever the refusal is of."""
        if refused.position is not None:
            at = refused.position - 1
            refused.position = 1  # of the one event of its call
            _fail(singles[at], refused)
            return singles[:at] + singles[at + 1 :]
        if refused.status in ABOUT_THE_BODY and len(singles) > 1:  # too large together, perhaps
            half = len(singles) // 2
            await self._deliver(singles[:half])
            return singles[half:]
        _fail_all(singles, refused)
        return []


def _succeed(singles: list[_Single], cursors: list[Cursor]) -> None:
    for single, cursor in zip(singles, cursors, strict=True):
        if not single.outcome.done():
            single.outcome.set_result(cursor)


def _fail(single: _Single, error: BaseException) -> None:
    if not single.outcome.done():
        single.outcome.set_exception(error)


def _fail_all(singles: list[_Single], error: Exception) -> None:
    for single in singles:
        _fail(single, copy.copy(error))  # a traceback each
