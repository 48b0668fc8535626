"""Listeners of a producer, `oncecast.v1`: welcome, resume, frames for as long as credit lasts, and what ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from oncecast import Event, Publisher
from oncecast.core.wire import Credit, Events, Resume, Welcome, decode_server_frame, encode
from oncecast.producer.broadcast.session import SocketLimits
from tests.support.producers import Address, ProducerProcess, closed, post, producer_here, producer_process
from tests.support.stacks import until

V1 = [Subprotocol("oncecast.v1")]
RESUME = '{"verb":"resume","instance":"l","group":"g","credit":1000000}'
PLENTY = 10**9


@pytest.fixture(scope="module")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProducerProcess]:
    with producer_process(tmp_path_factory.mktemp("producer")) as process:
        yield process


def listening(producer: Address) -> connect:
    return connect(producer.ws, subprotocols=V1, max_size=None, max_queue=None)


async def greeted(connection: ClientConnection, **resume: Any) -> Welcome:
    """Take the welcome, answer with a resume."""
    welcome = decode_server_frame(await connection.recv(decode=False))
    assert isinstance(welcome, Welcome)
    await connection.send(encode(Resume(**{"instance": "l", "group": "g", "credit": PLENTY, **resume})).decode())
    return welcome


async def next_frame(connection: ClientConnection) -> tuple[Events, int]:
    """The next frame and its size."""
    async with asyncio.timeout(120):
        text = await connection.recv(decode=False)
    frame = decode_server_frame(text)
    assert isinstance(frame, Events)
    return frame, len(text)


async def nothing_comes(connection: ClientConnection) -> bool:
    """Whether a ping is answered before anything else: frames stand in order."""
    receiving = asyncio.create_task(connection.recv())
    async with asyncio.timeout(120):
        await (await connection.ping())
    silent = not receiving.done()
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    return silent


async def published(producer: Address, count: int, size_bytes: int = 10) -> list[str]:
    """Publish `count` events, each in its own batch; return their cursors."""
    async with producer.client() as client:
        answers = [await post(client, {"n": n, "x": "x" * size_bytes}) for n in range(count)]
    return [answer.json()["events"][0]["cursor"] for answer in answers]


async def test_the_welcome_describes_the_journal(producer: ProducerProcess) -> None:
    cursor = (await published(producer, 1))[0]
    async with listening(producer) as connection:
        assert connection.subprotocol == "oncecast.v1"
        welcome = await greeted(connection)
        assert (welcome.version, welcome.first) == (1, 1)
        assert f"{welcome.epochs[-1].epoch}:{welcome.last}" == cursor


async def test_a_listener_resumes_after_its_cursor_and_may_see_an_overlap_but_no_gap(
    producer: ProducerProcess,
) -> None:
    async with producer.client() as client:
        answer = await post(client, [{"n": n} for n in range(10)])
    cursors = [event["cursor"] for event in answer.json()["events"]]
    offsets = [int(cursor.split(":")[1]) for cursor in cursors]
    async with listening(producer) as connection:
        await greeted(connection, after=cursors[4])
        frame, _ = await next_frame(connection)
        assert frame.offset <= offsets[5]
        assert frame.offset + len(frame.events) - 1 == offsets[-1]


@pytest.mark.parametrize("after", ["feedfeed:2", None])
async def test_a_cursor_that_is_unknown_reads_from_the_first(producer: ProducerProcess, after: str | None) -> None:
    await published(producer, 3)
    async with listening(producer) as connection:
        await greeted(connection, after=after)
        assert (await next_frame(connection))[0].offset == 1


async def test_a_cursor_beyond_the_end_waits_for_what_comes_next(producer: ProducerProcess) -> None:
    epoch, last = (await published(producer, 1))[0].split(":")
    async with listening(producer) as connection:
        await greeted(connection, after=f"{epoch}:{10**17}")
        assert await nothing_comes(connection)
        await published(producer, 1)
        assert (await next_frame(connection))[0].offset == int(last) + 1


async def test_catching_up_goes_over_into_live_without_gap_or_disorder(tmp_path: Path) -> None:
    with producer_process(tmp_path, WINDOW_BYTES="20000") as producer:
        async with Publisher(producer.http) as publisher:
            await publisher.publish_many([Event.new("tick", {"n": n}) for n in range(3_000)])
            rest = [Event.new("tick", {"n": n}) for n in range(3_000, 9_000)]
            async with listening(producer) as connection:
                more = asyncio.create_task(publisher.publish_many(rest))
                await greeted(connection)
                seen: list[int] = []
                while len(seen) < 9_000:
                    frame, _ = await next_frame(connection)
                    assert frame.offset == len(seen) + 1
                    seen += [msgspec.json.decode(event)["data"]["n"] for event in frame.events]
                await more
    assert sorted(seen) == list(range(9_000))


async def test_no_frame_comes_once_credit_is_spent_and_credit_brings_the_next(producer: ProducerProcess) -> None:
    cursors = await published(producer, 6, size_bytes=5_000)
    async with listening(producer) as connection:
        await greeted(connection, after=cursors[0], credit=1)
        first, first_bytes = await next_frame(connection)
        assert await nothing_comes(connection)
        await connection.send(encode(Credit(first_bytes - 1)).decode())  # what was lent is paid back; nothing is left
        assert await nothing_comes(connection)
        await connection.send(encode(Credit(first_bytes + 1)).decode())
        second, _ = await next_frame(connection)
        third, _ = await next_frame(connection)
        assert await nothing_comes(connection)
    assert [second.offset, third.offset] == [first.offset + 1, first.offset + 2]


async def test_a_report_is_shown_with_the_lag_up_to_the_greatest_number_of_the_wire(
    producer: ProducerProcess,
) -> None:
    cursor = (await published(producer, 1))[0]
    async with listening(producer) as connection, producer.client() as client:
        await greeted(connection, instance="reporting", after=cursor, credit=1)
        for stored in (7, 2**53):
            report = {"verb": "report", "cursor": cursor, "stored": stored}
            await connection.send(msgspec.json.encode(report).decode())

            async def shown(stored: int = stored) -> bool:
                listed = (await client.get("/health")).json()["listeners"]
                (one,) = [each for each in listed if each["instance"] == "reporting"]
                return (one["stored"], one["lag"]) == (stored, 0)

            await until(shown)


@pytest.mark.parametrize(
    "said",
    [
        '{"verb":"credit","bytes":-1}',
        '{"verb":"credit","bytes":0}',
        '{"verb":"credit","bytes":1000000000000000000}',
        '{"verb":"credit","bytes":1' + "0" * 400 + "}",
        '{"verb":"credit","bytes":1.5}',
        '{"verb":"report","cursor":"e:1","stored":1' + "0" * 30 + "}",
        '{"verb":"surprise"}',
        '{"verb":"welcome"}',
        "{}",
        "",
        "garbage",
        "[" * 50_000,
        RESUME,
        b"binary",
    ],
)
async def test_a_listener_that_does_not_keep_to_the_protocol_is_closed_with_a_reason(
    producer: ProducerProcess, said: str | bytes
) -> None:
    async with listening(producer) as connection:
        await greeted(connection, after=(await published(producer, 1))[0])
        await connection.send(said)
        code, reason = await closed(connection)
    assert (code, bool(reason)) == (1008, True)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('{"verb":"credit","bytes":1}', "first frame must be a resume"),
        ('{"verb":"resume","instance":"l","group":"g"}', "credit"),
        ('{"verb":"resume","instance":"l","group":"g","credit":0}', "credit must be 1 to"),
        ('{"verb":"resume","instance":"l","group":"g","credit":9,"after":"e:-1"}', "EPOCH:OFFSET"),
        ('{"verb":"resume","instance":"l","group":"g","credit":9,"after":"' + "x" * 9_000 + '"}', "EPOCH:OFFSET"),
        (b"binary", "not binary"),
        ('{"verb":"resume","instance":7,"group":"g","credit":9}', "instance"),
    ],
)
async def test_an_invalid_resume_is_refused(producer: ProducerProcess, said: str | bytes, why: str) -> None:
    async with listening(producer) as connection:
        await connection.recv()
        await connection.send(said)
        code, reason = await closed(connection)
    assert (code, why in reason) == (1008, True), reason


async def test_unknown_fields_are_ignored(producer: ProducerProcess) -> None:
    await published(producer, 1)
    async with listening(producer) as connection:
        await connection.recv()
        await connection.send(RESUME[:-1] + ',"mood":"good"}')
        assert (await next_frame(connection))[0].offset == 1


async def test_a_listener_that_never_resumes_is_disconnected(tmp_path: Path) -> None:
    limits = SocketLimits(resume_deadline_s=0.1)
    async with producer_here(tmp_path, sockets=limits) as producer, listening(producer) as connection:
        with pytest.raises(ConnectionClosed) as ended:
            while True:
                await connection.recv()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.reason == "no answer in time"


async def test_two_hundred_listeners_each_receive_everything_in_order(producer: ProducerProcess) -> None:
    begin = (await published(producer, 1))[0]

    async def follow() -> int:
        async with listening(producer) as connection:
            await greeted(connection, after=begin)
            offset = int(begin.split(":")[1])
            ready.release()
            while offset < int(begin.split(":")[1]) + 20:
                frame, _ = await next_frame(connection)
                assert frame.offset == offset + 1
                offset += len(frame.events)
            return offset

    ready = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        followers = [group.create_task(follow()) for _ in range(200)]
        for _ in followers:
            await ready.acquire()
        cursors = await published(producer, 20)
    assert {follower.result() for follower in followers} == {int(cursors[-1].split(":")[1])}
