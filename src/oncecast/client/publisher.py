"""The publisher: brings events to a producer until each is acknowledged, refused, or out of time.

Every event has its id before it is first sent and is always sent as the same bytes, so that a retry after a
lost answer is the same event. What an answer means is decided in `answers`, how events gather in `outbox`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Self

import httpx
import msgspec

from oncecast.client.address import authorization, is_loopback, publish_url, shown
from oncecast.client.answers import Accepted, Later, Refusal, read_answer
from oncecast.client.errors import NotAcknowledged, PublishRefused
from oncecast.client.outbox import Batch, Outbox, encode_event
from oncecast.core.event import Cursor, Event, new_id
from oncecast.core.retry import backoff

CONNECT_DEADLINE_S = 5.0
REQUEST_DEADLINE_S = 10.0
RETRY_BASE_S = 0.2
RETRY_MAX_S = 5.0
CONNECTIONS_MAX = 64
CHUNK_EVENTS = 100
"""So many events of a plain iterable are encoded before the next are asked for."""

EventLike = Event | Mapping[str, Any]
Lines = AsyncIterable[tuple[Sequence[bytes], Sequence[int]]]


class Publisher:
    """Publishes to the producer at `url`: `async with Publisher("http://localhost:8080") as publisher: …`

    An event is an `Event` or a mapping: a structured CloudEvent if it has `specversion`, else the data of a
    bare event; one without an id is given one. Each request must be acknowledged within `deadline_s` of its
    first sending, and is tried again until then. A request holds at most `batch_events_max` events and about
    `batch_bytes_max` bytes, or one larger event; `requests_max` are under way at a time.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        token: str | None = None,
        deadline_s: float = 60.0,
        batch_events_max: int = 1000,
        batch_bytes_max: int = 1024 * 1024,
        requests_max: int = 3,
    ) -> None:
        self._url = publish_url(url)
        self._shown = shown(url)
        self._deadline_s = deadline_s
        self._batch_events_max = batch_events_max
        self._batch_bytes_max = batch_bytes_max
        self._requests_max = requests_max
        self._http = httpx.AsyncClient(
            headers={**authorization(token), "Content-Type": "application/json"},
            timeout=httpx.Timeout(REQUEST_DEADLINE_S, connect=CONNECT_DEADLINE_S),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            trust_env=not is_loopback(url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def publish(self, event: EventLike) -> Cursor:
        """Publish one event; returns its place in the producer's journal once it is on disk there.

        Raises PublishRefused, NotAcknowledged.
        """
        accepted = await self._deliver(Batch([encode_event(event)], (1,)))
        try:
            return accepted.first_cursor()
        except (ValueError, IndexError, msgspec.MsgspecError) as error:
            raise PublishRefused("the acknowledgement names no cursor", status=202, accepted=1) from error

    async def publish_many(self, events: Iterable[EventLike] | AsyncIterable[EventLike]) -> int:
        """Publish all `events`, in batches of what has gathered; returns how many were accepted: all.

        Reads on only as fast as the producer takes. Raises PublishRefused or NotAcknowledged at the first
        batch that fails, when the requests under way have ended; both tell how many were accepted.
        """
        return await self._publish_all(lambda outbox: _fill(outbox, events))

    async def publish_json(self, lines: Lines, on_accepted: Callable[[int], None] | None = None) -> int:
        """Publish events that are JSON already, as they are: the fast path of `oncecast send`.

        `lines` yields runs of JSON objects, each with an id, and their numbers, which a refusal's `position`
        then tells. `on_accepted(count)` is called for every batch accepted. Returns and raises as
        `publish_many`.
        """

        async def fill(outbox: Outbox) -> None:
            async for events, numbers in lines:
                await outbox.add(events, numbers)

        return await self._publish_all(fill, on_accepted)

    async def _publish_all(
        self, fill: Callable[[Outbox], Awaitable[None]], on_accepted: Callable[[int], None] | None = None
    ) -> int:
        outbox = Outbox(events_max=self._batch_events_max, bytes_max=self._batch_bytes_max)
        accepted = 0
        failure: PublishRefused | NotAcknowledged | None = None

        async def read() -> None:
            await fill(outbox)
            outbox.end()

        async def send() -> None:
            nonlocal accepted, failure
            while (batch := await outbox.take()) is not None:
                try:
                    count = (await self._deliver(batch)).count
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
                for _ in range(self._requests_max):
                    group.create_task(send())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # what the caller's own iterable raised
        if failure is not None:
            failure.accepted = accepted
            raise failure
        return accepted

    async def _deliver(self, batch: Batch) -> Accepted:
        """Post the batch until it is acknowledged. Raises PublishRefused, NotAcknowledged."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._deadline_s
        # The ids are in the events; the key serves those whose `id` is nothing that a producer takes for one.
        headers = {"Idempotency-Key": new_id()}
        body = batch.body
        attempt, reason = 1, ""
        while True:
            match await self._post(body, headers, len(batch.events), deadline_s):
                case Accepted() as accepted:
                    return accepted
                case Refusal() as refusal:
                    raise _refused(refusal, batch)
                case Later() as later:
                    attempt += 1
                    if not reason or loop.time() < deadline_s:
                        reason = later.reason  # else our own deadline cut this try short: not the producer's fault
                    pause_s = backoff(attempt, base_s=RETRY_BASE_S, max_s=RETRY_MAX_S, jitter=random.random())
                    pause_s = max(pause_s, later.wait_s)
                    if loop.time() + pause_s >= deadline_s:
                        raise NotAcknowledged(reason, deadline_s=self._deadline_s)
                    await asyncio.sleep(pause_s)

    async def _post(
        self, body: bytes, headers: dict[str, str], sent: int, deadline_s: float
    ) -> Accepted | Refusal | Later:
        now_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(deadline_s, now_s + REQUEST_DEADLINE_S)):
                answer = await self._http.post(self._url, content=body, headers=headers)
        except TimeoutError:
            return Later(f"{self._shown} does not answer")
        except httpx.RequestError as error:
            return Later(f"{self._shown}: {str(error) or type(error).__name__}")
        return read_answer(answer.status_code, answer.headers.get("Retry-After"), answer.content, sent=sent)


async def _fill(outbox: Outbox, events: Iterable[EventLike] | AsyncIterable[EventLike]) -> None:
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
    return [encode_event(event) for event in islice(events, CHUNK_EVENTS)]


def _refused(refusal: Refusal, batch: Batch) -> PublishRefused:
    index = refusal.index
    if index is None and refusal.status in (400, 413, 422):
        index = 0 if len(batch.events) == 1 else _first_unreadable(batch.events)
    if index is None or not 0 <= index < len(batch.events):
        return PublishRefused(refusal.reason, status=refusal.status)
    return PublishRefused(
        refusal.reason,
        status=refusal.status,
        position=batch.numbers[index],
        event_id=_id_of(batch.events[index]),
    )


def _first_unreadable(events: Sequence[bytes]) -> int | None:
    """The event that spoilt the JSON of the whole request, which the producer then could not tell apart."""
    for index, event in enumerate(events):
        try:
            msgspec.json.decode(event)
        except (ValueError, RecursionError):
            return index
    return None


def _id_of(event: bytes) -> str | None:
    try:
        event_id = msgspec.json.decode(event).get("id")
    except (ValueError, RecursionError):
        return None
    return event_id[:80] if isinstance(event_id, str) else None
