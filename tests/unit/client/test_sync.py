"""The publisher for code without an event loop: threads share it, and its errors are those of `Publisher`."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from oncecast import Event, NotAcknowledged, PublishRefused, SyncPublisher
from oncecast.client import PublisherClosed, publisher
from oncecast.core.errors import ConfigError
from oncecast.embedded.ports import free_port
from tests.support.scripted_producer import Answer, Producer, Request, accept, refuse

WITHIN_S = 20.0


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "oncecast-publisher"]


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.01)


def hold_until(gate: threading.Event) -> Answer:
    async def answer(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(gate.wait, WITHIN_S)
        await accept(producer, request, writer)

    return answer


def test_threads_share_a_publisher_and_its_requests() -> None:
    scripted = Producer()
    with scripted.in_a_thread() as url, SyncPublisher(url) as publisher, ThreadPoolExecutor(20) as threads:
        cursors = list(threads.map(lambda n: publisher.publish({"id": f"t{n}"}), range(200)))
        assert len(set(cursors)) == 200
        assert len(loop_threads()) == 1
    assert {event["id"] for event in scripted.acknowledged} == {f"t{n}" for n in range(200)}
    assert len(scripted.requests) < 200


def test_the_iterable_is_read_in_the_callers_thread_as_fast_as_the_producer_accepts() -> None:
    gate = threading.Event()
    scripted = Producer([hold_until(gate)] * 2)
    drawn_by: list[threading.Thread] = []

    def endless() -> Iterator[dict[str, str]]:
        while len(drawn_by) < 5_000:
            drawn_by.append(threading.current_thread())
            yield {"id": str(len(drawn_by))}

    with (
        scripted.in_a_thread() as url,
        SyncPublisher(url, batch_events_max=100, requests_max=2) as p,
        ThreadPoolExecutor(1) as other,
    ):
        publishing = other.submit(p.publish_many, endless(), in_order=False)
        until(lambda: scripted.under_way == 2)
        # The requests in flight, one batch, and a chunk on each side of the handover.
        assert len(drawn_by) <= 2 * 100 + 100 + 2 * publisher.CHUNK_EVENTS + 1
        gate.set()
        assert publishing.result(WITHIN_S) == 5_000
    assert len(set(drawn_by)) == 1
    assert drawn_by[0] is not threading.current_thread()
    assert sorted(int(event["id"]) for event in scripted.acknowledged) == list(range(1, 5_001))


def test_events_of_a_slow_iterable_are_sent_at_once() -> None:
    scripted = Producer()

    def on_demand() -> Iterator[dict[str, int]]:
        for n in range(3):
            yield {"id": n}
            until(lambda n=n: len(scripted.acknowledged) > n)  # type: ignore[misc]

    with scripted.in_a_thread() as url, SyncPublisher(url) as p:
        assert p.publish_many(on_demand()) == 3
    assert [request.ids for request in scripted.requests] == [[0], [1], [2]]


def test_the_errors_are_those_of_the_asynchronous_one() -> None:
    scripted = Producer([accept, refuse(422, {"detail": "event 2: $.data holds \\u0000"})])
    events = [{"id": f"e{n}"} for n in range(1, 8)]
    with scripted.in_a_thread() as url, SyncPublisher(url, batch_events_max=2) as p:
        p.publish({"id": "first"})
        with pytest.raises(PublishRefused) as refused:
            p.publish_many(events)
        assert refused.value.position is not None
        assert refused.value.event_id == f"e{refused.value.position}"
        with pytest.raises(TypeError, match="publish_many takes several"):
            p.publish(events)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not Event: publish takes one"):
            p.publish_many(Event.new("lonely"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a producer's address is like"):
        SyncPublisher("localhost:8080")


def test_an_error_of_the_iterable_reaches_the_caller() -> None:
    def breaking() -> Iterator[dict[str, int]]:
        yield {"n": 1}
        raise LookupError("my own")

    with Producer().in_a_thread() as url, SyncPublisher(url) as p:
        with pytest.raises(LookupError, match="my own"):
            p.publish_many(breaking())
        assert p.publish({"n": 2}), "and the publisher can be used further"


def test_a_call_without_an_answer_ends_at_its_deadline_with_the_reason() -> None:
    said: list[str] = []
    with (
        SyncPublisher(f"http://127.0.0.1:{free_port()}", deadline_s=0.3, on_trouble=said.append) as p,
        pytest.raises(
            NotAcknowledged, match=r"within 0.3 s .*: http://127.0.0.1:\d+: All connection attempts failed"
        ),
    ):
        p.publish({"n": 1})
    assert len(said) == 1


def test_closing_ends_the_thread_and_waiting_calls() -> None:
    in_vain = threading.Event()
    p = SyncPublisher(f"http://127.0.0.1:{free_port()}", on_trouble=lambda _: in_vain.set())
    with ThreadPoolExecutor(2) as others:
        one, many = others.submit(p.publish, {"n": 1}), others.submit(p.publish_many, [{"n": 2}])
        in_vain.wait(WITHIN_S)
        p.close()
        for call in (one, many):
            with pytest.raises(PublisherClosed):
                call.result(WITHIN_S)
    assert not loop_threads()
    p.close()
    with pytest.raises(PublisherClosed, match="this publisher is closed"):
        p.publish({"n": 3})


def test_a_forgotten_publisher_leaves_no_thread() -> None:
    with Producer().in_a_thread() as url:
        SyncPublisher(url).publish({"n": 1})
        gc.collect()
        until(lambda: not loop_threads())
