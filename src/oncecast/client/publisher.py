"""The publisher: sends events to a producer until each is acknowledged, refused, or out of time.

Every event gets its id before it is first sent and is always sent as the same bytes, so that a retry after a lost
answer is the same event. `transport` sends and retries, `outbox` queues the events of one iterable, `singles` those
of single `publish` calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from oncecast.client.errors import NotAcknowledged, PublisherClosed, PublishRefused
from oncecast.client.outbox import SendQueue, check_several, encode_event
from oncecast.client.singles import Singles
from oncecast.client.transport import HttpTransport, RequestTimes
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.clock import Clock
from oncecast.core.event import Cursor
from oncecast.event import Event

CHUNK_EVENTS = 100
CHUNK_BYTES = 1024 * 1024
"""The size to which a plain iterable is encoded before the next events are read."""
REQUEST_TIMES = RequestTimes()

_log = logging.getLogger("oncecast.publisher")

EventLike = Event | Mapping[str, Any]
NdjsonLines = AsyncIterable[tuple[Sequence[bytes], Sequence[int]]]


class Publisher:
    """Publishes to the producer at `url`: `async with Publisher("http://localhost:8080") as publisher: …`

    An event is an `Event` or a mapping. A mapping with `specversion` is a structured CloudEvent; any other mapping is
    the data of a bare event. Its id is its member `id`, which is added if it is missing. `id_at` has JSON Pointers to
    another place of the id; several values, such as `("/order/number", "/status")`, together are the id.

    Each request is retried until it is acknowledged, at most for `deadline_s`. A request has at most
    `batch_events_max` events and about `batch_bytes_max` bytes, or one larger event. `publish_many(…,
    in_order=False)` sends up to `requests_max` requests at a time; so do all `publish` calls together.

    A `publish` that is awaited after another one comes later in the journal. So does each event of a `publish_many`.
    Events that several tasks publish at the same time have no order.

    `on_trouble(reason)` is called once when requests begin to fail; by default, a warning is logged. Several tasks of
    one event loop may share a publisher. Several event loops may use it one after another (several `asyncio.run`).
    `SyncPublisher` is for code without an event loop.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        token: str | None = None,
        deadline_s: float = 60.0,
        batch_events_max: int = 4000,
        batch_bytes_max: int = 1024 * 1024,
        requests_max: int = 3,
        on_trouble: Callable[[str], None] | None = None,
        id_at: Sequence[str] = (),
        times: RequestTimes = REQUEST_TIMES,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._url = url
        self._token = token
        self._deadline_s = deadline_s
        self._batch_events_max = batch_events_max
        self._batch_bytes_max = batch_bytes_max
        self._requests_max = requests_max
        self._on_trouble = on_trouble or _warn
        self._id_at = tuple(id_at)
        self._times = times
        self._clock = clock
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport, self._singles = self._connections()

    def _connections(self) -> tuple[HttpTransport, Singles]:
        transport = HttpTransport(
            self._url,
            self._clock,
            token=self._token,
            deadline_s=self._deadline_s,
            times=self._times,
            on_trouble=self._on_trouble,
            id_at=self._id_at,
        )
        singles = Singles(
            transport,
            deadline_s=self._deadline_s,
            events_max=self._batch_events_max,
            bytes_max=self._batch_bytes_max,
            requests_max=self._requests_max,
        )
        return transport, singles

    def _bind(self) -> None:
        """Make new connections for a new event loop: those of an ended loop are unusable."""
        if self._closed:
            raise PublisherClosed
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            if self._loop.is_running():
                raise RuntimeError("another running event loop uses this Publisher: use SyncPublisher for threads")
            self._transport, self._singles = self._connections()
        self._loop = loop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Calls that wait for an acknowledgement raise PublisherClosed."""
        self._closed = True
        if self._loop in (None, asyncio.get_running_loop()):
            await self._singles.aclose()
            await self._transport.aclose()

    async def publish(self, event: EventLike) -> Cursor:
        """Publish one event, and return its place in the journal once it is on the producer's disk.

        Calls of several tasks share requests, and each has its own outcome. Raises PublishRefused, NotAcknowledged or
        PublisherClosed. After a cancellation, the event may be accepted or not.
        """
        encoded = encode_event(event)
        self._bind()
        return await self._singles.publish(encoded)

    async def publish_many(
        self, events: Iterable[EventLike] | AsyncIterable[EventLike], *, in_order: bool = True
    ) -> int:
        """Publish all `events` in batches, and return their number once all are accepted.

        The journal keeps their order, which handlers with `ordered_by` follow: a batch is sent when the previous one
        is acknowledged. With `in_order=False`, up to `requests_max` batches are sent at a time, in any order, which
        is faster, especially if the producer is far away.

        The iterable is read only as fast as the producer accepts events. Raises PublishRefused or NotAcknowledged at
        the first batch that fails, after the current requests have ended; both tell how many events were accepted. In
        order, no later event was sent. An exception of the iterable is raised as it is; earlier events may be
        accepted.
        """
        check_several(events)
        return await self._publish_all(lambda outbox: _fill(outbox, events), in_order=in_order)

    async def publish_json(
        self, lines: NdjsonLines, on_accepted: Callable[[int], None] | None = None, *, in_order: bool = True
    ) -> int:
        """Publish events that are JSON already, without decoding them: `oncecast send` uses this.

        `lines` yields sequences of JSON objects, each with an id, and their numbers, which become `position` in a
        refusal. `on_accepted(count)` is called for every accepted batch. Order, result and errors are those of
        `publish_many`.
        """

        async def fill(outbox: SendQueue) -> None:
            async for events, numbers in lines:
                await outbox.add(events, numbers)

        return await self._publish_all(fill, on_accepted, in_order=in_order)

    async def _publish_all(
        self,
        fill: Callable[[SendQueue], Awaitable[None]],
        on_accepted: Callable[[int], None] | None = None,
        *,
        in_order: bool,
    ) -> int:
        self._bind()
        outbox = SendQueue(events_max=self._batch_events_max, bytes_max=self._batch_bytes_max)
        accepted = 0
        failure: PublishRefused | NotAcknowledged | None = None

        async def read() -> None:
            await fill(outbox)
            outbox.end()

        async def send() -> None:
            nonlocal accepted, failure
            while (batch := await outbox.take()) is not None:
                try:
                    count = (await self._transport.deliver(batch, with_cursors=False)).count
                except (PublishRefused, NotAcknowledged) as error:
                    failure = failure or error
                    reader.cancel()
                    outbox.drop()
                    return
                accepted += count
                if on_accepted is not None:
                    on_accepted(count)

        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(read())
                for _ in range(1 if in_order else self._requests_max):
                    group.create_task(send())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the error of the caller's iterable
        if failure is not None:
            failure.accepted = accepted
            raise failure
        return accepted


async def _fill(outbox: SendQueue, events: Iterable[EventLike] | AsyncIterable[EventLike]) -> None:
    number = 0
    if isinstance(events, AsyncIterable):
        async for event in events:
            number += 1
            await outbox.add((encode_event(event),), (number,))
        return
    iterator = iter(events)
    while chunk := _encode_some(iterator):
        await outbox.add(chunk, range(number + 1, number + 1 + len(chunk)))
        number += len(chunk)


def _encode_some(events: Iterator[EventLike]) -> list[bytes]:
    chunk: list[bytes] = []
    size_bytes = 0
    for event in events:
        chunk.append(encode_event(event))
        size_bytes += len(chunk[-1])
        if len(chunk) >= CHUNK_EVENTS or size_bytes >= CHUNK_BYTES:
            break
    return chunk


def _warn(reason: str) -> None:
    _log.warning("cannot publish yet, trying again: %s", reason)
