"""Events that many tasks publish one by one: they share requests.

A single event is sent at once. While `requests_max` requests are in flight, the next events accumulate. Each event
has its own outcome: a refused event is removed, and the other events of its request are sent again.
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
    """Publishes single events; each gets its own cursor or error."""

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
        """Return the event's cursor once it is on disk. Raises PublishRefused, NotAcknowledged, PublisherClosed.

        An event whose call is cancelled before it is sent is not sent.
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
            self._abandon(single)
            if isinstance(error, TimeoutError):
                raise NotAcknowledged(self._transport.reason, deadline_s=self._deadline_s) from None
            raise

    async def aclose(self) -> None:
        """Cancel the requests in flight; waiting calls raise PublisherClosed."""
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
                _fail(single, error)  # an unexpected error reaches the caller unchanged
            else:
                single.outcome.cancel()  # no outcome only if the loop is ending; otherwise this does nothing
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

    def _abandon(self, single: _Single) -> None:
        """Cancel the request of an abandoned event, if no other event of it is awaited."""
        delivery = single.delivery
        if delivery is not None and all(other.outcome.done() for other in self._under_way.get(delivery, ())):
            delivery.cancel()

    async def _deliver(self, singles: list[_Single]) -> None:
        """Send the events until each has an outcome."""
        while singles:
            batch = SendBatch([single.event for single in singles], range(1, len(singles) + 1))
            try:
                accepted = await self._transport.deliver(batch)
                cursors = accepted.cursors()
            except PublishRefused as refused:
                singles = await self._without_refused(refused, singles)
            except (NotAcknowledged, PublisherClosed) as error:
                return _fail_all(singles, error)
            except (ValueError, msgspec.MsgspecError):
                unreadable = PublishRefused("the acknowledgement has no valid cursor", status=202, accepted=1)
                return _fail_all(singles, unreadable)
            else:
                return _succeed(singles, cursors)
        return None

    async def _without_refused(self, refused: PublishRefused, singles: list[_Single]) -> list[_Single]:
        """Fail the refused event, and return the events to send again."""
        if refused.position is not None:
            at = refused.position - 1
            refused.position = 1  # the only event of its call
            _fail(singles[at], refused)
            return singles[:at] + singles[at + 1 :]
        if refused.status in ABOUT_THE_BODY and len(singles) > 1:  # perhaps they are too large only together
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
        _fail(single, copy.copy(error))  # each needs its own traceback
