"""Send batches to one producer, each until it is acknowledged, refused, or out of time.

A batch is always sent as the same bytes, ids included, so that a retry after a lost answer is the same events.
`answers` interprets the producer's answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx2
import msgspec

from oncecast.client.address import authorization, publish_url, shown
from oncecast.client.answers import Acknowledged, Later, Refusal, read_answer
from oncecast.client.connecting import http_options, http_proxy
from oncecast.client.errors import NotAcknowledged, PublisherClosed, PublishRefused
from oncecast.client.outbox import SendBatch
from oncecast.core.clock import Clock
from oncecast.core.retry import Backoff
from oncecast.event import new_id

CONNECT_DEADLINE_S = 5.0
CONNECTIONS_MAX = 32
DEFAULT_ID_AT = ("/id",)
TOO_LARGE = 413
ABOUT_THE_BODY = frozenset((400, TOO_LARGE, 422))
"""Refusals with these statuses concern the sent events; others would meet any event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimes:
    """The deadline of one request, and the back-off between failed requests."""

    deadline_s: float = 10.0
    retry: Backoff = Backoff(base_s=0.2, max_s=5.0)


class HttpTransport:
    """Posts to the producer at `url`; calls `on_trouble(reason)` once when requests begin to fail.

    `id_at` are the JSON Pointers to the ids of bare events; by default it is their member `id`.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        token: str | None,
        deadline_s: float,
        times: RequestTimes,
        on_trouble: Callable[[str], None],
        id_at: Sequence[str] = (),
    ) -> None:
        self._url = publish_url(url)
        self._shown = shown(url)
        proxy = http_proxy(url)
        self._through = f" (through {proxy})" if proxy else ""
        self._clock = clock
        self._times = times
        self._deadline_s = deadline_s
        self._on_trouble = on_trouble
        self._has_key = not id_at  # a key would silently give another id to an event without an id at `id_at`
        self._trouble = ""
        self._closed = False
        self._http = httpx2.AsyncClient(
            **http_options(url, {**authorization(token), "Content-Type": "application/json"}),
            params={"id": list(id_at or DEFAULT_ID_AT)},
            timeout=httpx2.Timeout(times.deadline_s, connect=CONNECT_DEADLINE_S),
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
        )
        # Requests that wait in httpx2's pool slow down all others, and count as failed attempts.
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    @property
    def reason(self) -> str:
        """Return why a request may not be answered yet."""
        return self._trouble or f"{self._shown} does not answer"

    async def aclose(self) -> None:
        """Close the connections; requests in flight raise PublisherClosed."""
        self._closed = True
        await self._http.aclose()

    async def deliver(self, batch: SendBatch, *, with_cursors: bool = True) -> Acknowledged:
        """Post the batch until it is acknowledged. Raises PublishRefused, NotAcknowledged, PublisherClosed.

        Without cursors, the producer saves work.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._deadline_s
        # The ids are in the events; the key is for events whose `id` is not valid as an id.
        headers = {"Idempotency-Key": new_id()} if self._has_key else {}
        if not with_cursors:
            headers["Prefer"] = "return=minimal"
        body = batch.body
        attempt, reason = 1, ""
        while True:
            match await self._post(body, headers, len(batch.events), deadline_s):
                case Acknowledged() as accepted:
                    self._trouble = ""
                    return accepted
                case Refusal() as refusal:
                    raise self._refused(refusal, batch)
                case Later() as later:
                    attempt += 1
                    if not reason or loop.time() < deadline_s:
                        reason = later.reason  # otherwise the caller's deadline ended this attempt, not the producer
                    self._note(reason)
                    pause_s = max(self._times.retry.delay_s(attempt, self._clock.random()), later.wait_s)
                    if loop.time() + pause_s >= deadline_s:
                        raise NotAcknowledged(reason, deadline_s=self._deadline_s)
                    await self._clock.sleep(pause_s)

    async def _post(
        self, body: bytes, headers: dict[str, str], sent: int, deadline_s: float
    ) -> Acknowledged | Refusal | Later:
        try:
            async with asyncio.timeout_at(deadline_s) as deadline, self._slots:
                if self._closed:
                    raise PublisherClosed
                deadline.reschedule(min(deadline_s, asyncio.get_running_loop().time() + self._times.deadline_s))
                answer = await self._http.post(self._url, content=body, headers=headers)
        except TimeoutError:
            return Later(f"{self._shown} does not answer{self._through}")
        except httpx2.RequestError as error:
            if self._closed:
                raise PublisherClosed from None
            return Later(f"{self._shown}: {str(error) or type(error).__name__}{self._through}")
        return read_answer(answer.status_code, answer.headers, answer.content, sent=sent)

    def _note(self, reason: str) -> None:
        known, self._trouble = self._trouble, reason
        if not known:
            self._on_trouble(reason)

    def _refused(self, refusal: Refusal, batch: SendBatch) -> PublishRefused:
        index = refusal.index
        if index is None and refusal.status in ABOUT_THE_BODY:
            alone = refusal.by_producer and refusal.status == TOO_LARGE and len(batch.events) == 1
            index = 0 if alone else _first_unreadable(batch.events)
        if index is None or not 0 <= index < len(batch.events):
            return PublishRefused(f"{self._shown}: {refusal.reason}", status=refusal.status)
        return PublishRefused(
            refusal.reason,
            status=refusal.status,
            position=batch.numbers[index],
            event_id=_id_of(batch.events[index]),
        )


def _first_unreadable(events: Sequence[bytes]) -> int | None:
    """Return the index of the event whose invalid JSON made the whole request unreadable."""
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
