from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial

import pydantic
import pytest

from oncecast.client import NotAcknowledged, Publisher, PublisherClosed, PublishRefused, publisher
from oncecast.client.transport import RequestTimes
from oncecast.core.errors import ConfigError
from oncecast.core.event import Cursor
from oncecast.core.retry import Backoff
from oncecast.embedded.ports import free_port
from oncecast.event import Event
from tests.support.scripted_producer import Producer, Request, accept_but_hang_up, fall_silent, refuse, when
from tests.support.scripted_producer import accept as acknowledge

QUICK = RequestTimes(retry=Backoff(base_s=0.005, max_s=0.02))
quick = partial(Publisher, times=QUICK)


def bare(count: int) -> list[dict[str, object]]:
    return [{"id": f"e{n}", "n": n} for n in range(1, count + 1)]


async def test_the_cursor_of_the_acknowledgement_is_returned() -> None:
    """publish returns the acknowledged cursor."""
    async with Producer().running() as producer, quick(producer.url) as p:
        assert await p.publish(Event.new("greeting", {"hello": "world"})) == Cursor("e1", 1)
        assert await p.publish({"hello": "again"}) == Cursor("e1", 2)


async def test_events_go_out_structured_and_mappings_bare() -> None:
    """An Event is sent as a structured CloudEvent, a mapping unchanged, with an id if it had none."""
    async with Producer().running() as producer, quick(producer.url) as p:
        await p.publish(Event.new("greeting", {"hello": "world"}, id="1"))
        await p.publish({"mag": 2, "id": 17})
        await p.publish({"mag": 3})
        await p.publish({"mag": 4, "id": None})
    structured, with_id, without_id, null_id = producer.acknowledged
    assert structured == {
        "specversion": "1.0",
        "id": "1",
        "source": "/oncecast",
        "type": "greeting",
        "data": {"hello": "world"},
    }
    assert with_id == {"mag": 2, "id": 17}
    assert without_id["id"].startswith("evt_")
    assert null_id["id"].startswith("evt_")


async def test_an_invalid_event_is_not_sent() -> None:
    """Anything but an Event or a mapping raises TypeError, also within an iterable."""
    async with Producer().running() as producer, quick(producer.url) as p:
        with pytest.raises(TypeError, match="not str"):
            await p.publish("hello")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not int"):
            await p.publish_many([{"id": "a"}, 3])  # type: ignore[list-item]


async def test_the_token_is_sent() -> None:
    """The token goes into the Authorization header."""
    async with Producer().running() as producer, quick(producer.url, token="s3cret") as p:
        await p.publish({"id": "a"})
    assert producer.requests[0].headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507])
async def test_a_busy_producer_gets_the_same_bytes_again(status: int) -> None:
    """503, 507 and similar are retried with the same ids and the same Idempotency-Key."""
    async with Producer([refuse(status), refuse(status)]).running() as producer, quick(producer.url) as p:
        await p.publish({"mag": 1})
    first, second, third = producer.requests
    assert first.body == second.body == third.body
    assert len({request.headers["idempotency-key"] for request in producer.requests}) == 1
    assert len(producer.acknowledged) == 1


async def test_a_lost_acknowledgement_leads_to_a_retry_with_the_same_ids() -> None:
    """If the connection closes after the events were accepted, the same events are sent again."""
    async with Producer([accept_but_hang_up]).running() as producer, quick(producer.url) as p:
        assert await p.publish_many(bare(3)) == 3
    assert [event["id"] for event in producer.acknowledged] == ["e1", "e2", "e3"] * 2


async def test_a_request_without_an_answer_is_retried() -> None:
    """A request without an answer ends at its own deadline, and is retried."""
    times = replace(QUICK, deadline_s=0.05)
    async with Producer([fall_silent]).running() as producer, Publisher(producer.url, times=times) as p:
        await p.publish({"id": "a"})
    assert [request.ids for request in producer.requests] == [["a"], ["a"]]


async def test_a_publisher_waits_for_its_producer() -> None:
    """A refused connection is retried until there is a producer."""
    port = free_port()
    async with quick(f"http://127.0.0.1:{port}") as p:
        publishing = asyncio.create_task(p.publish({"id": "a"}))
        async with Producer().running(port) as producer:
            await publishing
    assert producer.requests[0].ids == ["a"]


async def test_retry_after_is_honoured() -> None:
    """Retry-After beyond the deadline ends the wait at once: no time is left for a retry."""
    async with (
        Producer([refuse(503, {"detail": "the journal is full"}, "Retry-After: 3600\r\n")]).running() as producer,
        quick(producer.url, deadline_s=30) as p,
    ):
        async with asyncio.timeout(120):
            with pytest.raises(NotAcknowledged, match="the journal is full"):
                await p.publish({"id": "a"})
    assert len(producer.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 200, 302])
async def test_a_refusal_is_not_retried(status: int) -> None:
    """A status that a person must fix raises PublishRefused after one request."""
    async with Producer([refuse(status)]).running() as producer, quick(producer.url) as p:
        with pytest.raises(PublishRefused) as refused:
            await p.publish({"id": "a"})
    assert refused.value.status == status
    assert len(producer.requests) == 1


async def test_a_refusal_names_the_event_and_the_reason() -> None:
    """The problem's detail gives the reason, the position in the call and the event's id."""
    problem = refuse(422, {"title": "Unprocessable", "detail": "event 2: $.data holds \\u0000"})
    async with (
        Producer([acknowledge, problem]).running() as producer,
        quick(producer.url, batch_events_max=2) as p,
    ):
        with pytest.raises(PublishRefused) as refused:
            await p.publish_many(bare(7))
    assert (refused.value.position, refused.value.event_id, refused.value.accepted) == (4, "e4", 2)
    assert str(refused.value) == "event e4 is refused: $.data holds \\u0000"
    assert len(producer.requests) == 2


async def test_an_event_that_makes_a_request_unreadable_is_found() -> None:
    """If one event makes the request's JSON unreadable, the publisher finds it."""

    async def lines() -> AsyncIterator[tuple[list[bytes], list[int]]]:
        yield [b'{"id":"a"}', b'{"id":"b","text":"\xff"}'], [7, 8]

    problem = refuse(400, {"detail": "the body is not JSON in UTF-8: invalid"})
    async with Producer([problem]).running() as producer, quick(producer.url) as p:
        with pytest.raises(PublishRefused) as refused:
            await p.publish_json(lines())
    assert refused.value.position == 8


async def test_requests_in_flight_end_before_a_refusal_is_raised() -> None:
    """If one batch is refused, the publisher still waits for others in flight, so that `accepted` is correct."""
    refused_first = asyncio.Event()

    async def refuse_and_tell(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await refuse(422, {"detail": "no"})(producer, request, writer)
        refused_first.set()

    answers = [when(refused_first, acknowledge), refuse_and_tell]
    async with (
        Producer(answers).running() as producer,
        quick(producer.url, batch_events_max=5, requests_max=2) as p,
    ):
        with pytest.raises(PublishRefused) as refused:
            await p.publish_many(bare(1000), in_order=False)
    assert refused.value.accepted == len(producer.acknowledged) == 5


async def test_an_acknowledgement_with_a_wrong_count_is_an_error() -> None:
    """A 202 that counts fewer events than were sent is an error, not a success."""
    async with (
        Producer([refuse(202, {"accepted": 1, "events": []})]).running() as producer,
        quick(producer.url) as p,
    ):
        with pytest.raises(PublishRefused, match="2 events were sent, 1 acknowledged"):
            await p.publish_many(
                [{"id": "a"}, {"id": "b"}],
            )


async def test_the_error_after_the_deadline_has_the_accepted_count() -> None:
    """NotAcknowledged after the deadline has the reason and the number of events on disk."""
    answers = [acknowledge] + [refuse(503, {"detail": "the disk is being checked"})] * 1000
    async with (
        Producer(answers).running() as producer,
        quick(producer.url, deadline_s=0.5, batch_events_max=2) as p,
    ):
        with pytest.raises(NotAcknowledged, match=r"2 accepted before.*: the disk is being checked") as late:
            await p.publish_many(bare(6))
    assert late.value.accepted == 2
    assert {tuple(request.ids) for request in producer.requests[1:]} == {("e3", "e4")}


async def test_batches_are_bounded_by_count_and_by_bytes() -> None:
    """No request exceeds the set events or bytes; a larger event is sent alone."""
    sizes = [10, 10, 10, 500, 10, 2000, 10]
    events = [{"id": str(n), "text": "x" * size} for n, size in enumerate(sizes)]
    async with (
        Producer().running() as producer,
        quick(producer.url, batch_events_max=2, batch_bytes_max=600) as p,
    ):
        await p.publish_many(events)
    assert [request.ids for request in producer.requests] == [["0", "1"], ["2", "3"], ["4"], ["5"], ["6"]]
    assert producer.acknowledged == events


async def test_publish_many_keeps_the_order_when_a_batch_is_retried() -> None:
    """The next batch is sent only when the previous one is acknowledged, at any `requests_max`."""
    answers = [refuse(503), acknowledge, accept_but_hang_up, refuse(507)]
    async with Producer(answers).running() as producer, quick(producer.url, batch_events_max=10) as p:
        assert await p.publish_many(bare(55)) == 55
    numbers = [event["n"] for event in producer.acknowledged]
    assert list(dict.fromkeys(numbers)) == list(range(1, 56))
    assert numbers == [*range(1, 21), *range(11, 56)], "the second batch twice, its first answer was lost"
    assert producer.most_under_way == 1


async def test_without_order_several_batches_are_in_flight() -> None:
    """`in_order=False` sends a batch before the previous ones are acknowledged."""
    second_came = asyncio.Event()

    async def accept_and_tell(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await acknowledge(producer, request, writer)
        second_came.set()

    answers = [when(second_came, acknowledge), accept_and_tell]
    async with (
        Producer(answers).running() as producer,
        quick(producer.url, batch_events_max=2) as p,
    ):
        assert await p.publish_many(bare(4), in_order=False) == 4
    assert sorted(event["n"] for event in producer.acknowledged) == [1, 2, 3, 4]
    assert producer.most_under_way == 2


async def test_requests_in_flight_are_limited() -> None:
    """At most `requests_max` requests are in flight at a time."""
    async with (
        Producer().running() as producer,
        quick(producer.url, batch_events_max=3, requests_max=2) as p,
    ):
        assert await p.publish_many(bare(100), in_order=False) == 100
    assert producer.most_under_way <= 2
    assert sorted(event["n"] for event in producer.acknowledged) == list(range(1, 101))


async def test_publish_many_reads_only_as_fast_as_the_producer_accepts() -> None:
    """While nothing is acknowledged, only the requests in flight, one batch and one chunk are read."""
    gate = asyncio.Event()
    drawn = 0

    def endless() -> Iterator[dict[str, object]]:
        nonlocal drawn
        while drawn < 20_000:
            drawn += 1
            yield {"id": str(drawn)}

    async with (
        Producer([when(gate, acknowledge)] * 2).running() as producer,
        quick(producer.url, batch_events_max=100, requests_max=2) as p,
    ):
        publishing = asyncio.create_task(p.publish_many(endless(), in_order=False))
        while producer.under_way < 2:
            producer.arrived.clear()
            await producer.arrived.wait()
        assert drawn <= 2 * 100 + 2 * 100 + publisher.CHUNK_EVENTS
        gate.set()
        assert await publishing == 20_000


async def test_a_single_event_is_sent_at_once() -> None:
    """Each event of an asynchronous iterable is sent when it arrives, not when a batch is full."""

    async def on_demand() -> AsyncIterator[dict[str, object]]:
        for n in range(3):
            yield {"id": str(n)}
            while len(producer.acknowledged) <= n:
                producer.arrived.clear()
                await producer.arrived.wait()

    async with Producer().running() as producer, quick(producer.url) as p:
        assert await p.publish_many(on_demand()) == 3
    assert [request.ids for request in producer.requests] == [["0"], ["1"], ["2"]]


async def test_an_error_of_the_iterable_reaches_the_caller() -> None:
    """An error of the caller's iterable is raised itself, not in an exception group."""

    async def breaking() -> AsyncIterator[dict[str, object]]:
        yield {"id": "a"}
        raise LookupError("my own")

    async with Producer().running() as producer, quick(producer.url) as p:
        with pytest.raises(LookupError, match="my own"):
            await p.publish_many(breaking())


async def test_nothing_to_publish_makes_no_request() -> None:
    """An empty iterable is accepted without a request."""
    async with Producer().running() as producer, quick(producer.url) as p:
        assert await p.publish_many([]) == 0
    assert producer.requests == []


async def test_json_lines_are_sent_unchanged() -> None:
    """publish_json does not encode again, and a refusal has the number given with the line."""
    line = b'{ "id":1,  "odd" : 1.50e3 }'

    async def lines() -> AsyncIterator[tuple[list[bytes], list[int]]]:
        yield [line, line], [10, 20]

    counts: list[int] = []
    async with (
        Producer([acknowledge, refuse(422, {"detail": "event 2: no"})]).running() as producer,
        quick(producer.url) as p,
    ):
        assert await p.publish_json(lines(), counts.append) == 2
        with pytest.raises(PublishRefused) as refused:
            await p.publish_json(lines())
    assert producer.requests[0].body == b"[" + line + b"," + line + b"]"
    assert counts == [2]
    assert refused.value.position == 20


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://host:99999", "", "http://[::1"])
def test_a_wrong_address_is_reported_at_once(url: str) -> None:
    """An invalid address raises ConfigError before anything is sent."""
    with pytest.raises(ConfigError, match="a producer's address is like"):
        Publisher(url)


def test_no_error_contains_a_secret() -> None:
    """Neither a token nor a password in an address is repeated in an error."""
    with pytest.raises(ConfigError) as wrong_token:
        Publisher(token="s3cret\n")
    with pytest.raises(ConfigError) as wrong_address:
        Publisher("mailto://user:s3cret@host")
    assert "s3cret" not in str(wrong_token.value) + str(wrong_address.value)


async def test_many_tasks_share_one_publisher() -> None:
    """Many tasks may call publish at once."""
    async with Producer().running() as producer, quick(producer.url) as p, asyncio.TaskGroup() as group:
        tasks = [group.create_task(p.publish(event)) for event in bare(50)]
        assert len({await task for task in tasks}) == 50
    assert sorted(event["n"] for event in producer.acknowledged) == list(range(1, 51))


# --- events published one by one --------------------------------------------------------------------------


async def test_events_of_many_tasks_share_requests_and_each_has_its_own_cursor() -> None:
    """A single event is sent at once; while requests are in flight, the next events accumulate."""
    gate = asyncio.Event()
    async with (
        Producer([when(gate, acknowledge)] * 2).running() as producer,
        quick(producer.url, requests_max=2, batch_events_max=300) as p,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(p.publish(event)) for event in bare(1000)]
        await _under_way(producer, 2)
        gate.set()
        cursors = [await task for task in tasks]
    assert len(producer.requests) == 2 + 4, "300, 300, 300, 98"
    place = {event["id"]: offset for offset, event in enumerate(producer.acknowledged, 1)}
    assert [cursor.offset for cursor in cursors] == [place[f"e{n}"] for n in range(1, 1001)]
    assert producer.most_under_way == 2


async def test_a_refused_event_does_not_affect_others() -> None:
    """Only its own call raises; the other events are sent again without it."""

    async def refuse_the_third(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        if "e3" in request.ids:
            detail = f"event {request.ids.index('e3') + 1} of {len(request.ids)}: no such thing"
            await refuse(422, {"detail": detail})(producer, request, writer)
        else:
            await acknowledge(producer, request, writer)

    async with (
        Producer([refuse_the_third] * 10).running() as producer,
        quick(producer.url, requests_max=1) as p,
    ):
        outcomes = await asyncio.gather(*(p.publish(event) for event in bare(6)), return_exceptions=True)
    refused = outcomes.pop(2)
    assert isinstance(refused, PublishRefused)
    assert (str(refused), refused.position) == ("event e3 is refused: no such thing", 1)
    assert all(isinstance(outcome, Cursor) for outcome in outcomes)
    assert [request.ids for request in producer.requests][1:] == [
        ["e2", "e3", "e4", "e5", "e6"],
        ["e2", "e4", "e5", "e6"],
    ]


async def test_a_request_that_is_too_large_is_split() -> None:
    """A producer or proxy that accepts only smaller requests causes no refusal."""

    async def at_most_two(producer: Producer, request: Request, writer: asyncio.StreamWriter) -> None:
        await (acknowledge if len(request.ids) <= 2 else refuse(413))(producer, request, writer)

    async with Producer([at_most_two] * 20).running() as producer, quick(producer.url, requests_max=1) as p:
        cursors = await asyncio.gather(*(p.publish(event) for event in bare(9)))
    assert len(set(cursors)) == 9
    assert sorted(event["n"] for event in producer.acknowledged) == list(range(1, 10))


async def test_a_refused_token_fails_every_call_after_one_request() -> None:
    """An error of the whole request is raised for each event, with the address."""
    async with Producer([refuse(401, {"detail": "no"})] * 3).running() as producer, quick(producer.url) as p:
        outcomes = await asyncio.gather(*(p.publish(event) for event in bare(3)), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == [f"refused: {producer.url}: no"] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3


async def test_a_publish_cancelled_before_sending_is_not_sent() -> None:
    """Other accumulated events are still sent."""
    gate = asyncio.Event()
    async with (
        Producer([when(gate, acknowledge)]).running() as producer,
        quick(producer.url, requests_max=1) as p,
    ):
        tasks = [asyncio.create_task(p.publish(event)) for event in bare(4)]
        await _under_way(producer, 1)
        tasks[2].cancel()
        gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Cursor, Cursor, asyncio.CancelledError, Cursor]
    assert [event["id"] for event in producer.acknowledged] == ["e1", "e2", "e4"]


async def test_a_request_without_waiting_calls_is_cancelled() -> None:
    """After all its calls are cancelled, the request is cancelled, too, and the next event is sent."""
    gate = asyncio.Event()
    async with (
        Producer([when(gate, acknowledge)]).running() as producer,
        quick(producer.url, requests_max=1) as p,
    ):
        publishing = asyncio.create_task(p.publish({"id": "given up"}))
        await _under_way(producer, 1)
        publishing.cancel()
        async with asyncio.timeout(120):
            assert await p.publish({"id": "next"})
    assert [event["id"] for event in producer.acknowledged] == ["next"]


async def test_a_queued_publish_ends_at_its_own_deadline() -> None:
    """The deadline includes the wait for other requests."""
    async with (
        Producer([fall_silent] * 5).running() as producer,
        quick(producer.url, requests_max=1, deadline_s=0.3) as p,
    ):
        async with asyncio.timeout(120):
            outcomes = await asyncio.gather(*(p.publish(event) for event in bare(3)), return_exceptions=True)
    assert all(isinstance(outcome, NotAcknowledged) for outcome in outcomes), outcomes
    assert f"{producer.url} does not answer" in str(outcomes[2])


async def test_a_closed_publisher_raises() -> None:
    """Waiting calls and later calls raise PublisherClosed."""
    async with Producer([fall_silent] * 2).running() as producer:
        p = quick(producer.url)
        waiting = [asyncio.create_task(p.publish({"id": "a"})), asyncio.create_task(p.publish_many(bare(2)))]
        await _under_way(producer, 2)
        await p.aclose()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, PublisherClosed)
        for publishing in (p.publish({"id": "b"}), p.publish_many(bare(1))):
            with pytest.raises(PublisherClosed, match="this publisher is closed"):
                await publishing


async def test_trouble_is_reported_once_for_each_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise a caller with a wrong address would wait a minute without a message."""
    answers = [refuse(503, {"detail": "full"}), refuse(503), acknowledge, refuse(503, {"detail": "full again"})]
    async with Producer(answers).running() as producer, quick(producer.url) as p:
        await p.publish({"id": "a"})
        await p.publish({"id": "b"})
    messages = [record.getMessage() for record in caplog.records if record.name == "oncecast.publisher"]
    assert messages == ["cannot publish yet, trying again: full", "cannot publish yet, trying again: full again"]


class Order(pydantic.BaseModel):
    sku: str


async def test_a_mapping_may_contain_a_pydantic_model() -> None:
    async with Producer().running() as producer, quick(producer.url) as p:
        await p.publish({"id": "a", "order": Order(sku="A-1")})
    assert producer.acknowledged == [{"id": "a", "order": {"sku": "A-1"}}]


async def test_publish_and_publish_many_reject_each_others_arguments() -> None:
    """The error says what to use instead."""
    async with Publisher() as p:
        with pytest.raises(TypeError, match="not list; publish_many takes several"):
            await p.publish(bare(2))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="an iterable of events, not dict: publish takes one"):
            await p.publish_many({"id": "a"})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match=r"the event 'a' cannot be encoded as JSON: .* object is unsupported"):
            await p.publish({"id": "a", "x": object()})


@pytest.mark.parametrize(
    "error",
    [
        PublishRefused("no", status=422, position=3, event_id="e3", accepted=2),
        NotAcknowledged("full", deadline_s=2.0, accepted=1),
    ],
)
def test_errors_can_be_pickled(error: Exception) -> None:
    """Workers of a process pool, or of Celery, pickle their errors."""
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


async def _under_way(producer: Producer, count: int) -> None:
    while producer.under_way < count:
        producer.arrived.clear()
        await producer.arrived.wait()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_publisher_serves_one_event_loop_after_another() -> None:
    """With several calls of asyncio.run, each call's events are acknowledged."""

    async def publish(p: Publisher) -> list[Cursor]:
        first = await p.publish(Event.new("a"))
        return [first, await p.publish(Event.new("b"))]

    with Producer().in_a_thread() as url:
        p = quick(url)
        cursors = asyncio.run(publish(p)) + asyncio.run(publish(p))
        assert asyncio.run(p.publish_many([Event.new("c"), Event.new("d")])) == 2
        asyncio.run(p.aclose())
        with pytest.raises(PublisherClosed):
            asyncio.run(publish(p))
    assert [cursor.offset for cursor in cursors] == [1, 2, 3, 4]
    del p
    gc.collect()  # asyncio reports unclosed connections of an ended event loop: here, not in a later test


async def test_two_event_loops_at_once_are_refused() -> None:
    """The error names the class for threads."""
    async with Producer().running() as producer, quick(producer.url) as p:
        await p.publish(Event.new("a"))
        with pytest.raises(RuntimeError, match="SyncPublisher"):
            await asyncio.to_thread(asyncio.run, p.publish(Event.new("b")))
