"""What handlers emit reaches a producer in its order, or it is known which event no producer will take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oncecast.client.emissions import ProducersPublisher
from oncecast.core.errors import EmissionRefused, Unavailable
from tests.support.scripted_producer import Answer, Producer, Request, accept, refuse

SIZES = (1, 1, 1, 1, 1, 1, 1)


def emitted(*sizes: int) -> list[bytes]:
    return [b'{"id":"%d","pad":"%s"}' % (n, b"x" * 100 * size) for n, size in enumerate(sizes)]


def at_most(bytes_max: int) -> Answer:
    """A proxy that takes no more at once, and does not say whose fault that is."""

    async def answer(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await (accept if len(request.body) <= bytes_max else refuse(413))(producer, request, writer)

    return answer


@asynccontextmanager
async def publishing(*answers: Answer) -> AsyncIterator[tuple[Producer, ProducersPublisher]]:
    async with Producer(list(answers)).running() as producer:
        publisher = ProducersPublisher([producer.url])
        try:
            yield producer, publisher
        finally:
            await publisher.close()


def ids(producer: Producer) -> list[int]:
    return [int(event["id"]) for event in producer.acknowledged]


async def test_events_that_are_too_large_together_are_published_in_halves_and_in_their_order() -> None:
    async with publishing(*[at_most(300)] * 20) as (producer, publisher):
        await publisher.publish(emitted(*SIZES))
        assert ids(producer) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("large", range(7))
async def test_one_that_is_too_large_by_itself_is_named_wherever_it_stands(large: int) -> None:
    sizes = [5 if n == large else 1 for n in range(7)]
    async with publishing(*[at_most(400)] * 20) as (producer, publisher):
        with pytest.raises(EmissionRefused) as refused:
            await publisher.publish(emitted(*sizes))
        assert refused.value.index == large
        assert ids(producer) == list(range(len(producer.acknowledged)))  # none behind it, and none in another order


async def test_what_the_producer_names_in_a_half_is_found_in_the_whole() -> None:
    named = refuse(422, {"detail": "event 2: $.data holds \\u0000"})
    async with publishing(refuse(413), accept, named) as (_producer, publisher):
        with pytest.raises(EmissionRefused) as refused:
            await publisher.publish(emitted(*SIZES))
        assert refused.value.index == 3 + 1


async def test_a_refusal_of_everybody_is_asked_about_once_and_can_be_mended() -> None:
    async with publishing(*[refuse(401, {"detail": "no"})] * 9) as (producer, publisher):
        with pytest.raises(Unavailable):
            await publisher.publish(emitted(*SIZES))
        assert len(producer.requests) == 1


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_what_a_proxy_says_of_everything_puts_no_event_aside_and_is_asked_once(status: int) -> None:
    async with publishing(*[refuse(status)] * 3, accept) as (producer, publisher):
        for count in (7, 1, 1):
            with pytest.raises(Unavailable):
                await publisher.publish(emitted(*SIZES[:count]))
        await publisher.publish(emitted(1))
        assert ids(producer) == [0]
