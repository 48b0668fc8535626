"""Emitted events reach a producer in order, or the error names the event that no producer accepts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oncecast.client.emissions import RETURN_S, ProducersPublisher
from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.errors import EmissionRefused, Unavailable
from tests.support.clock import ManualClock
from tests.support.scripted_producer import Answer, Producer, Request, accept, refuse

SIZES = (1, 1, 1, 1, 1, 1, 1)


def emitted(*sizes: int) -> list[bytes]:
    return [b'{"id":"%d","pad":"%s"}' % (n, b"x" * 100 * size) for n, size in enumerate(sizes)]


TOO_LARGE = {"detail": "a request may have 400 bytes; send the events in several"}
PAGE = b"<html>no</html>"
"""A proxy's refusal."""


def at_most(bytes_max: int, refusal: Answer) -> Answer:
    """Refuse larger requests."""

    async def answer(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await (accept if len(request.body) <= bytes_max else refusal)(producer, request, writer)

    return answer


@asynccontextmanager
async def publishing(*answers: Answer) -> AsyncIterator[tuple[Producer, ProducersPublisher]]:
    async with Producer(list(answers)).running() as producer:
        publisher = ProducersPublisher([producer.url], SYSTEM_CLOCK)
        try:
            yield producer, publisher
        finally:
            await publisher.close()


def ids(producer: Producer) -> list[int]:
    return [int(event["id"]) for event in producer.acknowledged]


@pytest.mark.parametrize("refusal", [refuse(413, TOO_LARGE), refuse(413, PAGE)])
async def test_a_request_that_is_too_large_is_split_in_order(refusal: Answer) -> None:
    async with publishing(*[at_most(300, refusal)] * 20) as (producer, publisher):
        await publisher.publish(emitted(*SIZES))
        assert ids(producer) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("large", range(7))
async def test_a_single_event_that_is_too_large_is_named(large: int) -> None:
    sizes = [5 if n == large else 1 for n in range(7)]
    async with publishing(*[at_most(400, refuse(413, TOO_LARGE))] * 20) as (producer, publisher):
        with pytest.raises(EmissionRefused) as refused:
            await publisher.publish(emitted(*sizes))
        assert refused.value.index == large
        assert ids(producer) == list(range(len(producer.acknowledged)))  # no later event, and no other order


async def test_an_event_too_large_for_a_proxy_is_kept() -> None:
    async with publishing(*[at_most(400, refuse(413, PAGE))] * 20) as (producer, publisher):
        with pytest.raises(Unavailable, match="HTTP 413"):
            await publisher.publish(emitted(1, 1, 5, 1))
        assert ids(producer) == [0, 1]


FOREIGN_PROBLEM = b'{"type":"https://gateway.example/size","title":"Too large","status":%d,"detail":"the event: no"}'


@pytest.mark.parametrize("status", [400, 403, 404, 413, 415, 422])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", PAGE),
        ("application/json", b'{"title":"no","status":%d,"detail":"event 1: blocked"}'),
        ("application/problem+json", FOREIGN_PROBLEM),
        ("application/problem+json", b'{"title":"no","status":1%d,"detail":"event 1: blocked"}'),
        ("application/problem+json", b'["event 1: blocked"]'),
    ],
    ids=["a page", "other JSON", "a problem of its own type", "of another answer", "no problem"],
)
async def test_only_a_producer_can_refuse_an_event(status: int, content_type: str, body: bytes) -> None:
    body = body % status if b"%d" in body else body
    refusal = refuse(status, body, f"Content-Type: {content_type}\r\n")
    async with publishing(*[refusal] * 20) as (_producer, publisher):
        with pytest.raises(Unavailable):
            await publisher.publish(emitted(1))
        with pytest.raises(Unavailable):
            await publisher.publish(emitted(1, 1, 1))


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_only_requests_that_are_too_large_are_split(status: int) -> None:
    refusal = refuse(status, {"detail": "the request ended before its body did"})
    async with publishing(*[refusal] * 20) as (producer, publisher):
        with pytest.raises(Unavailable, match="the request ended"):
            await publisher.publish(emitted(1, 1, 1))
        assert len(producer.requests) == 1
        with pytest.raises(Unavailable, match="the request ended"):
            await publisher.publish(emitted(1))


@pytest.mark.parametrize("answer", [refuse(400, {"detail": "the body is not JSON"}), refuse(400, PAGE)])
async def test_an_event_that_is_not_json_is_found(answer: Answer) -> None:
    async with publishing(answer) as (_producer, publisher):
        with pytest.raises(EmissionRefused) as refused:
            await publisher.publish([b'{"id":"a"}', b'{"id":"b","text":"\xff"}'])
        assert refused.value.index == 1


async def test_an_event_named_in_a_half_has_its_position_in_the_whole() -> None:
    named = refuse(422, {"detail": "event 2: $.data holds \\u0000"})
    async with publishing(refuse(413), accept, named) as (_producer, publisher):
        with pytest.raises(EmissionRefused) as refused:
            await publisher.publish(emitted(*SIZES))
        assert refused.value.index == 3 + 1


async def test_a_refusal_of_all_events_is_temporary() -> None:
    async with publishing(*[refuse(401, {"detail": "no"})] * 9) as (producer, publisher):
        with pytest.raises(Unavailable):
            await publisher.publish(emitted(*SIZES))
        assert len(producer.requests) == 1


@asynccontextmanager
async def returning(*answers: Answer) -> AsyncIterator[tuple[Producer, Producer, ProducersPublisher]]:
    """Two producers. The first was away; it is due to be tried again, and gives these answers."""
    clock = ManualClock()
    away, answers_left = True, list(answers)

    async def now_and_then(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await (refuse(503, {}) if away else answers_left.pop(0))(producer, request, writer)

    async with Producer([now_and_then] * 100).running() as first, Producer().running() as second:
        publisher = ProducersPublisher([first.url, second.url], clock, deadline_s=0.2)
        with pytest.raises(Unavailable):
            await publisher.publish(emitted(1))
        away = False
        await publisher.publish(emitted(1))
        assert (ids(first), ids(second)) == ([], [0])
        clock.now_s += RETURN_S
        try:
            yield first, second, publisher
        finally:
            await publisher.close()


async def test_the_first_producer_is_tried_again_after_a_wait() -> None:
    """Otherwise listeners with different failures would keep publishing to different journals."""
    async with returning(accept, accept) as (first, second, publisher):
        await publisher.publish(emitted(1, 1))
        await publisher.publish(emitted(1))
        assert (ids(first), ids(second)) == ([0, 1, 0], [0])


@pytest.mark.parametrize("answer", [refuse(503, {}), refuse(404, PAGE), refuse(401, {"detail": "who are you?"})])
async def test_a_first_producer_that_fails_again_is_left_for_the_working_one(
    answer: Answer,
) -> None:
    async with returning(*[answer] * 9) as (first, second, publisher):
        with pytest.raises(Unavailable):
            await publisher.publish(emitted(1))
        await publisher.publish(emitted(1, 1))
        assert (ids(first), ids(second)) == ([], [0, 0, 1])
