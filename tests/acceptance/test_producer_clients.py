"""Plain WebSocket clients of a producer: they publish, receive and replay, and affect no others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Data, Origin, Subprotocol

from oncecast import Event, Publisher
from oncecast.producer.broadcast.session import SocketLimits
from tests.support.producers import (
    ProducerProcess,
    closed,
    hand_shake,
    last_offset,
    next_event,
    producer_here,
    producer_process,
    stuck_reader,
)
from tests.support.stacks import until


@pytest.fixture(scope="module")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProducerProcess]:
    with producer_process(tmp_path_factory.mktemp("producer")) as process:
        yield process


@pytest.fixture
async def client(producer: ProducerProcess) -> AsyncIterator[httpx2.AsyncClient]:
    async with producer.client() as http:
        yield http


async def subscribers(client: httpx2.AsyncClient) -> int:
    count: int = (await client.get("/health")).json()["subscribers"]
    return count


async def test_any_client_publishes_and_receives_and_only_the_publisher_gets_the_acknowledgement(
    producer: ProducerProcess,
) -> None:
    async with connect(producer.ws) as one, connect(producer.ws) as other:
        await one.send('{"id":"a","type":"tick"}')
        said = [await next_event(one), await next_event(one)]
        accepted = next(e for e in said if e["type"] == "oncecast.accepted")
        assert accepted["data"]["events"][0]["id"] == "a"
        assert any(e["id"] == "a" for e in said)
        await one.send("[7]")
        refused = await next_event(one)
        assert (refused["type"], refused["data"]["status"]) == ("oncecast.refused", 422)
        assert "event 1" in refused["data"]["detail"]
        assert (await next_event(other))["id"] == "a"
        await other.send('{"id":"b"}')
        assert (await next_event(one))["id"] == "b"


@pytest.mark.parametrize("text", ["", "null", "{", '"' + "x" * 900_000 + '"', "[" * 100_000, '{"x":"\\ud800"}'])
async def test_what_cannot_be_taken_is_refused_and_the_connection_goes_on(
    producer: ProducerProcess, client: httpx2.AsyncClient, text: str
) -> None:
    begin = await last_offset(client)
    async with connect(producer.ws) as connection:
        await connection.send(text)
        assert (await next_event(connection))["type"] == "oncecast.refused"
        await connection.ping()
    assert await last_offset(client) == begin


async def test_the_address_of_a_plain_client_says_where_the_ids_of_its_events_are(producer: ProducerProcess) -> None:
    async with connect(f"{producer.ws}/?id=/order/number&type=order.paid") as connection:
        await connection.send('{"id":1,"order":{"number":"A-1"}}')
        seen = [await next_event(connection), await next_event(connection)]
        (event,) = (event for event in seen if event["source"] == "/oncecast")
        assert (event["id"], event["type"]) == ("A-1", "order.paid")
        await connection.send("{}")
        refused = await next_event(connection)
        assert (refused["type"], "/order/number" in refused["data"]["detail"]) == ("oncecast.refused", True)


async def test_the_command_line_client_of_websockets_is_enough(
    producer: ProducerProcess, client: httpx2.AsyncClient
) -> None:
    begin = await subscribers(client)
    shell = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "websockets", producer.ws),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert shell.stdin is not None
    assert shell.stdout is not None

    async def subscribed() -> bool:
        return await subscribers(client) > begin

    await until(subscribed)
    shell.stdin.write(b'{"id":"typed"}\n')
    async with asyncio.timeout(120):
        printed = b""
        while b"oncecast.accepted" not in printed or b'"id":"typed"' not in printed:
            printed += await shell.stdout.read(4_096)
    shell.terminate()
    await shell.communicate()


async def test_a_client_replays_from_the_earliest_or_after_a_cursor_and_goes_on_live(tmp_path: Path) -> None:
    async with producer_here(tmp_path) as producer, Publisher(producer.http) as publisher:
        cursors = [await publisher.publish(Event.new("tick", id=f"e{n}")) for n in range(5)]
        async with (
            connect(f"{producer.ws}/?from=earliest") as earliest,
            connect(f"{producer.ws}/?after={cursors[2]}") as after,
            connect(f"{producer.ws}/?after=feedfeed:3") as foreign,
            connect(f"{producer.ws}/?from=latest") as latest,
        ):
            await publisher.publish(Event.new("tick", id="live"))
            everything = ["e0", "e1", "e2", "e3", "e4", "live"]
            assert [(await next_event(earliest))["id"] for _ in everything] == everything
            assert [(await next_event(after))["id"] for _ in range(3)] == ["e3", "e4", "live"]
            assert [(await next_event(foreign))["id"] for _ in everything] == everything
            assert (await next_event(latest))["id"] == "live"


async def test_the_subprotocol_of_cloudevents_is_the_plain_one(producer: ProducerProcess) -> None:
    async with connect(producer.ws, subprotocols=[Subprotocol("cloudevents.json")]) as connection:
        assert connection.subprotocol == "cloudevents.json"
        await connection.send('{"id":"c"}')
        assert "specversion" in await next_event(connection)


async def test_a_subprotocol_that_nobody_knows_is_not_agreed_to(producer: ProducerProcess) -> None:
    async with connect(producer.ws) as plain:
        assert plain.subprotocol is None
    async with connect(producer.ws, subprotocols=[Subprotocol("mqtt")]) as other:
        assert other.subprotocol is None


async def test_a_binary_frame_is_closed_with_1003(producer: ProducerProcess) -> None:
    async with connect(producer.ws) as connection:
        await connection.send(b"binary")
        assert (await closed(connection))[0] == 1003


async def test_a_frame_beyond_the_limit_is_closed_with_1009_before_it_is_read(producer: ProducerProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", producer.port)
    writer.write(hand_shake(producer, "/"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x81\xff" + (2_000_000).to_bytes(8) + bytes(4))  # a text frame's head, and nothing of its text
    async with asyncio.timeout(120):
        head = await reader.readexactly(4)
    assert (head[0], int.from_bytes(head[2:])) == (0x88, 1009)
    writer.transport.abort()


@pytest.mark.parametrize(
    "path",
    [
        "/?after=nonsense",
        "/?after=e:-1",
        "/?from=yesterday",
        "/?id=x",
        "/?id=header:X-A",
        "/elsewhere",
        "/web/app.js",
        "/events",
    ],
)
async def test_a_socket_that_cannot_be_served_is_refused_in_its_hand_shake(
    producer: ProducerProcess, path: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(producer.ws + path).__aenter__()
    assert refused.value.response.status_code == 403


async def test_pages_of_foreign_origins_and_hosts_open_no_socket(producer: ProducerProcess) -> None:
    for origin in ("http://evil.example", "null", "http://["):
        with pytest.raises(InvalidStatus):
            await connect(producer.ws, origin=Origin(origin)).__aenter__()
    with pytest.raises(InvalidStatus):
        await connect(f"ws://evil.example:{producer.port}", host="127.0.0.1", proxy=None).__aenter__()
    async with connect(producer.ws, origin=Origin(producer.http)) as own:
        await own.ping()


async def test_a_hand_shake_that_is_cut_off_leaves_nothing_behind(
    producer: ProducerProcess, client: httpx2.AsyncClient
) -> None:
    begin = await subscribers(client)
    for request in (hand_shake(producer, "/?from=earliest"), hand_shake(producer, "/")[:60]):
        _, writer = await asyncio.open_connection("127.0.0.1", producer.port)
        writer.write(request)
        writer.transport.abort()
    async with connect(producer.ws) as connection:
        connection.transport.abort()

    async def all_gone() -> bool:
        return await subscribers(client) == begin

    await until(all_gone)


# --- readers that do not read ---------------------------------------------------------------------------------


async def until_closed(connection: ClientConnection) -> AsyncIterator[Data]:
    """Everything that comes before the close."""
    with suppress(ConnectionClosed):
        while True:
            yield await connection.recv()


IMPATIENT = SocketLimits(client_send_deadline_s=0.3)
BULK = [Event.new("tick", "x" * 10_000) for _ in range(1_500)]
"""More than the buffers between two sockets hold."""


async def test_a_reader_that_never_reads_delays_nobody(producer: ProducerProcess) -> None:
    async with stuck_reader(producer), connect(producer.ws) as connection, Publisher(producer.http) as publisher:
        sending = asyncio.create_task(publisher.publish_many(BULK))
        received = {(await next_event(connection))["id"] for _ in BULK}
        await sending
    assert received == {event.id for event in BULK}


async def test_a_reader_that_never_reads_is_closed_for_good(tmp_path: Path) -> None:
    async with (
        producer_here(tmp_path, sockets=IMPATIENT) as producer,
        Publisher(producer.http) as publisher,
        producer.client() as client,
    ):
        await publisher.publish_many(BULK)
        async with stuck_reader(producer) as reader:

            async def joined() -> bool:
                return await subscribers(client) == 1

            async def gone() -> bool:
                return await subscribers(client) == 0

            await until(joined)
            await until(gone, within_s=10)
            received = b""
            async with asyncio.timeout(120):  # what is left in the buffers, then why it is closed
                while b"too slow; continue with ?after=" not in received[-200:]:
                    received += await reader.read(2**16)


async def test_a_slow_reader_learns_where_to_continue(tmp_path: Path) -> None:
    async with (
        producer_here(tmp_path, sockets=IMPATIENT) as producer,
        Publisher(producer.http) as publisher,
        producer.client() as client,
    ):
        await publisher.publish_many(BULK)
        async with connect(f"{producer.ws}/?from=earliest", max_queue=1, close_timeout=10) as slow:

            async def given_up() -> bool:
                return await subscribers(client) == 0

            await until(given_up, within_s=10)
            seen = [message async for message in until_closed(slow)]
            code, reason = await closed(slow)
        assert code == 1013
        async with connect(f"{producer.ws}/?after={reason.rpartition('=')[2]}") as again:
            assert (await next_event(again))["id"] == BULK[len(seen)].id
            again.transport.abort()
    assert 0 < len(seen) < len(BULK)


async def test_a_publisher_that_reads_no_answers_is_ended_by_the_system(tmp_path: Path) -> None:
    limits = replace(IMPATIENT, close_deadline_s=0.3)
    async with (
        producer_here(tmp_path, unread_timeout_ms=300, sockets=limits) as producer,
        producer.client() as client,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", producer.port, limit=1)
        writer.write(hand_shake(producer, "/"))
        event = b'{"x":"' + b"y" * 60_000 + b'"}'
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(120):
                while True:
                    writer.write(b"\x81\xfe" + len(event).to_bytes(2) + bytes(4) + event)
                    await writer.drain()
        writer.transport.abort()
        assert await subscribers(client) == 0
