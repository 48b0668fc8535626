from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from oncecast.client import ProducerRefused
from oncecast.client.subscription import BroadcastEvent, Tail
from oncecast.core.event import Cursor
from oncecast.core.retry import Backoff
from oncecast.core.wire import SUBPROTOCOL, Epoch, Welcome, decode_client_frame, encode, events_frame
from oncecast.event import Event

Session = Callable[["Broadcast", ServerConnection], Awaitable[None]]


class Broadcast:
    """A producer's broadcast: the n-th connection runs `sessions[n]`, later ones the last."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = sessions
        self.connections = 0
        self.heard: list[Any] = []

    @asynccontextmanager
    async def running(self, subprotocol: str = SUBPROTOCOL) -> AsyncIterator[str]:
        """Serve while the block runs; yields the address."""

        async def session(connection: ServerConnection) -> None:
            self.connections += 1
            await self.sessions[min(self.connections, len(self.sessions)) - 1](self, connection)

        async with serve(session, "127.0.0.1", 0, subprotocols=[Subprotocol(subprotocol)]) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def receive(self, connection: ServerConnection) -> Any:
        """Return the client's next frame."""
        self.heard.append(frame := decode_client_frame(await connection.recv()))
        return frame


def events(first: int, last: int) -> bytes:
    body = msgspec.json.encode([msgspec.Raw(Event.new("t", n, id=f"e{n}").to_json()) for n in range(first, last + 1)])
    return events_frame(first, 1_000_000 * first, body)


def sends(*frames: bytes, epochs: tuple[Epoch, ...] = (Epoch("aa", 1),), last: int = 9, stay: bool = True) -> Session:
    """Send the welcome, read the resume, send each frame after the previous credit; then stay or leave."""

    async def session(broadcast: Broadcast, connection: ServerConnection) -> None:
        welcome = Welcome(journal="j", epochs=list(epochs), first=1, last=last)
        await connection.send(encode(welcome), text=True)
        await broadcast.receive(connection)
        for frame in frames:
            await connection.send(frame, text=True)
            await broadcast.receive(connection)
        if stay:
            await connection.wait_closed()

    return session


tail = partial(Tail, reconnect=Backoff(base_s=0.005, max_s=15.0))


async def first(count: int, of: Tail) -> list[BroadcastEvent]:
    """Return the first `count` events of the tail."""
    received: list[BroadcastEvent] = []
    async with asyncio.timeout(120), aclosing(of.__aiter__()) as stream:
        async for one in stream:
            received.append(one)
            if len(received) == count:
                break
    return received


async def test_a_tail_begins_with_the_next_event_by_default() -> None:
    """By default, the reader resumes after the last offset of the welcome, without a group."""
    broadcast = Broadcast(sends(events(10, 11)))
    async with broadcast.running() as url:
        received = await first(2, tail(url))
    assert [str(one.cursor) for one in received] == ["aa:10", "aa:11"]
    assert (received[0].event.id, received[0].event.data, received[0].at_us) == ("e10", 10, 10_000_000)
    assert (broadcast.heard[0].after, broadcast.heard[0].group) == ("aa:9", "")


async def test_earliest_reads_from_the_first_event_kept() -> None:
    """`earliest` resumes without a cursor."""
    broadcast = Broadcast(sends(events(1, 2)))
    async with broadcast.running() as url:
        assert [one.cursor.offset for one in await first(2, tail(url, earliest=True))] == [1, 2]
    assert broadcast.heard[0].after is None


@pytest.mark.parametrize(("after", "resumed"), [("aa:4", "aa:4"), ("bb:7", "bb:7"), ("aa:7", "aa:5"), ("zz:3", None)])
async def test_a_cursor_is_resumed_within_its_epoch(after: str, resumed: str | None) -> None:
    """A cursor beyond the end of its epoch continues at that end; one of an unknown epoch at the first event."""
    epochs = (Epoch("aa", 1), Epoch("bb", 6))
    broadcast = Broadcast(sends(events(8, 9), epochs=epochs))
    async with broadcast.running() as url:
        await first(1, tail(url, after=Cursor.parse(after)))
    assert broadcast.heard[0].after == resumed


async def test_a_tail_reconnects_and_continues_after_the_last_event() -> None:
    """After a broken connection every event still arrives once: the overlap of the first frame is dropped."""
    lost: list[str] = []
    broadcast = Broadcast(sends(events(10, 12), stay=False), sends(events(11, 14), last=14))
    async with broadcast.running() as url:
        received = await first(5, tail(url, on_disconnect=lambda reason, _delay_s: lost.append(reason)))
    assert [one.cursor.offset for one in received] == [10, 11, 12, 13, 14]
    assert [frame.after for frame in broadcast.heard if hasattr(frame, "after")] == ["aa:9", "aa:12"]
    assert len(lost) == 1


async def test_credit_is_returned_for_every_byte() -> None:
    """The size of each consumed frame is returned to the producer as credit."""
    frames = [events(10, 11), events(12, 12), events(13, 13)]
    broadcast = Broadcast(sends(*frames))
    async with broadcast.running() as url:
        await first(4, tail(url))
    assert [frame.bytes for frame in broadcast.heard[1:3]] == [len(frames[0]), len(frames[1])]


@pytest.mark.parametrize(
    "frame", [b"hello", b"{}", b'{"verb":"events"}', encode(Welcome(journal="j", epochs=[], first=1, last=0))]
)
async def test_a_peer_that_violates_the_protocol_is_refused(frame: bytes) -> None:
    """A peer that violates `oncecast.v1` ends the tail with an error, without retries."""

    async def session(broadcast: Broadcast, connection: ServerConnection) -> None:
        await connection.send(frame, text=True)
        await connection.wait_closed()

    async with Broadcast(session).running() as url:
        with pytest.raises(ProducerRefused):
            await first(1, tail(url))


async def test_a_server_without_the_subprotocol_is_refused() -> None:
    """A WebSocket server of another kind is refused."""
    async with Broadcast(sends()).running("chat") as url:
        with pytest.raises(ProducerRefused):
            await first(1, tail(url))


async def test_a_wrong_token_is_an_error_and_a_busy_producer_is_retried() -> None:
    """401 is an error; 503 is retried. The token goes into the header."""
    answers = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.UNAUTHORIZED]
    tokens: list[str | None] = []

    def answer(connection: ServerConnection, request: Request) -> Response:
        tokens.append(request.headers.get("Authorization"))
        return connection.respond(answers[len(tokens) - 1], "no")

    async def never(connection: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=answer) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ProducerRefused, match="HTTP 401"):
            await first(1, tail(f"http://127.0.0.1:{port}", token="s3cret"))
    assert tokens == ["Bearer s3cret"] * 2
