"""A feed checks everything that a producer sends, and reconnects whatever the producer does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.cursors import SavedCursor
from oncecast.core.event import Arrival, Cursor
from oncecast.core.ranges import EVENT_COST_BYTES, Range, RangeRules
from oncecast.core.retry import Backoff
from oncecast.core.telemetry import Connected, ConnectingAgain, Disconnected, Reconnecting, TelemetryEvent
from oncecast.core.wire import (
    Answer,
    Ask,
    Credit,
    Epoch,
    ListenerReport,
    Resume,
    Welcome,
    decode_client_frame,
    encode,
    events_frame,
)
from oncecast.listener.feed.dial import websocket_dial
from oncecast.listener.feed.feed import HELD_WINDOWS_MAX, Feed
from oncecast.listener.feed.journals import Journals
from tests.support.arrivals import frame
from tests.support.stacks import until

WINDOW_BYTES = 100_000
EPOCHS = [Epoch("e1", 1)]
Script = Callable[[ServerConnection], Awaitable[None]]


class Store:
    """Knows one saved cursor."""

    incarnation = "1"

    saved: SavedCursor | None = None
    key_hash: str | None = None

    async def meet_journal(self, journal: str, key_hash: str) -> str:
        self.key_hash = self.key_hash or key_hash
        return self.key_hash

    async def load_cursor(self, journal: str) -> SavedCursor | None:
        return self.saved

    async def begin_cursor(self, journal: str, epochs: list[Epoch], at: Cursor) -> None:
        self.saved = SavedCursor(at, epochs)

    async def adopt_cursor(self, journal: str, epochs: list[Epoch], *, instead_of: list[Epoch]) -> None:
        assert self.saved is not None
        assert self.saved.epochs == instead_of
        self.saved = SavedCursor(Cursor("e1", 9), epochs)


class Harness:
    """A feed, and what it brought."""

    def __init__(self, url: str, window_bytes: int = WINDOW_BYTES, alongside: Harness | None = None) -> None:
        self.telemetry_events: list[TelemetryEvent] = []
        self.arrived: list[Arrival] = []
        self.store: Store = alongside.store if alongside else Store()
        self.journals: Journals = alongside.journals if alongside else Journals(self.store, "g")  # type: ignore[arg-type]
        self.may_answer = asyncio.Event()
        self.is_ready = asyncio.Event()
        self.is_ready.set()
        self.asked_ready = 0
        self.feed = Feed(
            url,
            instance="listener-a",
            group="g",
            dial=websocket_dial({}),
            window_bytes=window_bytes,
            rules=RangeRules(2, decoded=True),
            reconnect=Backoff(base_s=0.01, max_s=0.02),
            from_latest=False,
            clock=SYSTEM_CLOCK,
            store=self.store,  # type: ignore[arg-type]
            journals=self.journals,
            ready=self._ready,
            receive=self._receive,
            report=ListenerReport,
            answer=self._answer,
            record=self.telemetry_events.append,
        )

    async def _ready(self) -> bool:
        self.asked_ready += 1
        await self.is_ready.wait()
        return False

    def _receive(self, ranges: list[Range]) -> None:
        for each in ranges:
            for arrival in each.arrivals:
                arrival.busy = True  # as if each were claimed at once
                self.arrived.append(arrival)

    async def _answer(self, ask: Ask) -> Answer:
        await self.may_answer.wait()
        return Answer(id=ask.id, status=200, body=ask.path)

    def reported(self, kind: type[TelemetryEvent]) -> list[Any]:
        return [telemetry for telemetry in self.telemetry_events if isinstance(telemetry, kind)]

    async def has_arrived(self, count: int) -> list[str]:
        async def enough() -> bool:
            return len(self.arrived) >= count

        await until(enough, within_s=10)
        return [x.id for x in self.arrived]


@asynccontextmanager
async def producer(*scripts: Script, alongside: Harness | None = None) -> AsyncIterator[Harness]:
    """A producer whose n-th connection follows the n-th script, further ones the last; and a feed that runs.

    The feed is in one process with the one of `alongside`.
    """
    left = list(scripts)

    async def follow(connection: ServerConnection) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(connection)

    async with serve(follow, "127.0.0.1", 0, subprotocols=[Subprotocol("oncecast.v1")]) as server:
        harness = Harness(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", alongside=alongside)
        running = asyncio.create_task(harness.feed.run())
        try:
            yield harness
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def greet(
    connection: ServerConnection,
    epochs: list[Epoch] | None = None,
    journal: str = "j",
    *,
    first: int = 1,
    key: str | None = "k",
) -> Resume:
    welcome = Welcome(journal=journal, key=key, epochs=epochs or EPOCHS, first=first, last=0)
    await connection.send(encode(welcome).decode())
    resume = decode_client_frame(await connection.recv())
    assert isinstance(resume, Resume)
    return resume


def sends(*frames: bytes | str) -> Script:
    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        for text in frames:
            await connection.send(text.decode() if isinstance(text, bytes) else text)
        await connection.wait_closed()

    return script


def notes(resumed: list[str | None], epochs: list[Epoch] | None = None, *, first: int = 1) -> Script:
    """Where the feed resumes."""

    async def script(connection: ServerConnection) -> None:
        resumed.append((await greet(connection, epochs, first=first)).after)
        await connection.wait_closed()

    return script


async def some(noted: list[str | None]) -> None:
    async def noted_some() -> bool:
        return bool(noted)

    await until(noted_some)


async def test_it_resumes_after_the_last_offset_it_received_when_the_connection_broke() -> None:
    resumed: list[str | None] = []

    async def script(connection: ServerConnection) -> None:
        resumed.append((await greet(connection)).after)
        first = 2 * len(resumed) - 1
        await connection.send(frame(first, str(first), str(first + 1)).decode())

    async with producer(script) as at:
        assert (await at.has_arrived(6))[:6] == ["1", "2", "3", "4", "5", "6"]
    assert resumed[:3] == [None, "e1:2", "e1:4"]


async def test_a_new_process_resumes_at_the_saved_cursor() -> None:
    resumed: list[str | None] = []
    async with producer(notes(resumed)) as at:
        at.store.saved = SavedCursor(Cursor("e1", 41), EPOCHS)
        await some(resumed)
    assert resumed[0] == "e1:41"


async def test_a_new_group_begins_a_cursor_before_it_reads_so_that_what_it_misses_afterwards_is_a_gap() -> None:
    resumed: list[str | None] = []
    async with producer(notes(resumed, first=42)) as at:
        await some(resumed)
        assert at.store.saved == SavedCursor(Cursor("e1", 41), EPOCHS)
    assert resumed == ["e1:41"]


async def test_a_cursor_is_of_a_divergent_history_only_if_a_later_welcome_does_not_name_its_epoch() -> None:
    lost, journals = [*EPOCHS, Epoch("e9", 10)], [*EPOCHS, Epoch("e2", 12)]
    resumed: list[str | None] = []
    async with producer(notes(resumed, journals)) as at:
        at.store.saved = SavedCursor(Cursor("e9", 41), lost)
        await some(resumed)
        assert at.store.saved == SavedCursor(Cursor("e1", 9), journals)
        assert len(at.reported(Disconnected)) == 1, "the first welcome might have been older than the cursor"
    assert resumed == ["e1:9"]


async def test_a_welcome_older_than_the_cursor_changes_nothing() -> None:
    outdated, journals = [*EPOCHS, Epoch("e9", 10)], [*EPOCHS, Epoch("e2", 12)]
    resumed: list[str | None] = []
    async with producer(notes(resumed, outdated), notes(resumed, journals)) as at:
        at.store.saved = saved = SavedCursor(Cursor("e2", 41), journals)
        await some(resumed)
        assert at.store.saved is saved
    assert resumed == ["e2:41"]


async def test_a_restored_journal_is_read_from_where_the_histories_diverge() -> None:
    resumed: list[str | None] = []

    async def before(connection: ServerConnection) -> None:
        await greet(connection, [Epoch("e1", 1), Epoch("lost", 3)])
        await connection.send(frame(1, "a", "b").decode())
        await connection.send(frame(3, "lost-c", "lost-d").decode())

    async def restored(connection: ServerConnection) -> None:
        resumed.append((await greet(connection, [Epoch("e1", 1), Epoch("e2", 2)])).after)
        await connection.send(frame(2, "new-b", "new-c").decode())
        await connection.wait_closed()

    async with producer(before, restored) as at:
        at.store.saved = SavedCursor(Cursor("e1", 1), [Epoch("e1", 1)])
        assert await at.has_arrived(5) == ["b", "lost-c", "lost-d", "new-b", "new-c"]
    assert resumed == ["e1:1"]
    assert [x.cursor for x in at.arrived[-2:]] == ["e2:2", "e2:3"]


async def test_credit_is_returned_in_portions_as_events_end_and_are_saved() -> None:
    credited: list[int] = []
    text = frame(1, *map(str, range(1, 101)), size_bytes=300)

    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        await connection.send(text.decode())
        while True:
            said = decode_client_frame(await connection.recv())
            if isinstance(said, Credit):
                credited.append(said.bytes)

    async with producer(script) as at:
        await at.has_arrived(100)
        track = at.feed.track
        assert track is not None
        track.end(at.arrived)
        track.save(track.cursor_at(100))

        async def all_back() -> bool:
            return sum(credited) > len(text) - WINDOW_BYTES // 8

        await until(all_back)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"verb":"surprise"}',
        '{"verb":"events","offset":-5,"at":0,"events":[{"id":"x","source":"/s","type":"t"}]}',
        '{"verb":"events","offset":1,"at":0,"events":[]}',
        '{"verb":"events","offset":1,"at":0,"events":[{"id":7}]}',
        '{"verb":"events","offset":1,"at":0,"events":[{"id":"\\u0000","source":"/s","type":"t"}]}',
        '{"verb":"events","offset":1,"at":0,"events":[{"id":"x","source":"\\u0000","type":"t"}]}',
        '{"verb":"events","offset":1,"at":0,"events":[{"id":"x","source":"/s","type":"\\u0000"}]}',
        '{"verb":"events","offset":1,"at":0,"events":[{"id":"' + "é" * 257 + '","source":"/s","type":"t"}]}',
        '{"verb":"events","offset":1,"at":0,"events":[{"id":"x","source":"' + "x" * 513 + '","type":"t"}]}',
        '{"verb":"events","offset":1,"at":0,"events":{}}',
        '{"verb":"events","offset":99999999999999999999,"at":0,"events":[{"id":"x","source":"/s","type":"t"}]}',
        '{"verb":"events","offset":1,"at":9223372036854775808,"events":[{"id":"x","source":"/s","type":"t"}]}',
        '{"verb":"events","offset":1,"at":253402300799999999,"events":[{"id":"x","source":"/s","type":"t"}]}',
        '{"verb":"events","offset":1,"at":-1,"events":[{"id":"x","source":"/s","type":"t"}]}',
        '{"verb":"gap","first":1,"last":9223372036854775808}',
        '{"verb":"ask","id":9223372036854775808,"method":"GET","path":"/"}',
        '{"verb":"welcome","journal":"j","epochs":[],"first":1,"last":0}',
        '{"verb":"events","offset":1,"at":0,"events":' + "[" * 100_000,
    ],
)
async def test_invalid_frames_end_the_connection_with_a_reason_and_the_next_one_works(text: str) -> None:
    async with producer(sends(text), sends(frame(1, "fine"))) as at:
        assert await at.has_arrived(1) == ["fine"]
    assert len(at.reported(Connected)) == 2
    assert "sent" in at.reported(Disconnected)[0].reason


@pytest.mark.parametrize(
    "text",
    [
        '{"verb":"welcome","journal":"j","epochs":[["e1",1]],"first":9223372036854775809,"last":9223372036854775809}',
        '{"verb":"welcome","journal":"j","epochs":[["e1",1]],"first":-9,"last":0}',
        '{"verb":"welcome","journal":"j","epochs":[["e1",1]],"first":1,"last":9223372036854775808}',
        '{"verb":"welcome","journal":"j","epochs":[["e1",1]],"first":1,"last":-9}',
        '{"verb":"welcome","journal":"j","epochs":[["e1",-9]],"first":1,"last":0}',
        '{"verb":"welcome","journal":"j","epochs":[["e1",9223372036854775808]],"first":1,"last":0}',
        '{"verb":"welcome","journal":"j","epochs":[["e\\u0000",1]],"first":1,"last":0}',
        '{"verb":"welcome","journal":"\\u0000","epochs":[["e1",1]],"first":1,"last":0}',
        '{"verb":"welcome","journal":"' + "j" * 10_000 + '","epochs":[["e1",1]],"first":1,"last":0}',
    ],
)
async def test_a_welcome_with_impossible_offsets_ends_the_connection_before_a_save(
    text: str,
) -> None:
    saved: list[SavedCursor | None] = []

    async def says(connection: ServerConnection) -> None:
        await connection.send(text)
        await connection.wait_closed()
        saved.append(at.store.saved)

    async with producer(says, sends(frame(1, "fine"))) as at:
        assert await at.has_arrived(1) == ["fine"]
    assert saved == [None]
    assert "invalid frame" in at.reported(Disconnected)[0].reason


async def test_a_broken_frame_keeps_no_credit() -> None:
    resumed: list[int] = []
    broken = '{"verb":"events","offset":1,"at":0,"events":[],"padding":"' + "x" * (WINDOW_BYTES // 2) + '"}'

    async def breaks(connection: ServerConnection) -> None:
        resumed.append((await greet(connection)).credit)
        await connection.send(broken)
        await connection.wait_closed()

    async with producer(breaks):

        async def often() -> bool:
            return len(resumed) > 4

        await until(often)
    assert set(resumed) == {WINDOW_BYTES}


async def test_a_full_window_accepts_no_more_even_over_new_connections() -> None:
    sent: list[int] = []

    async def floods(connection: ServerConnection) -> None:
        await greet(connection)
        first = 10 * len(sent) + 1
        sent.append(first)
        await connection.send(
            frame(first, *map(str, range(first, first + 10)), size_bytes=WINDOW_BYTES // 30).decode()
        )

    async with producer(floods) as at:

        async def full() -> bool:
            return at.feed.used_bytes >= WINDOW_BYTES

        await until(full)
        taken, reported = len(sent), len(at.reported(Disconnected))
        track = at.feed.track
        assert track is not None
        track.end(at.arrived)
        track.save(track.cursor_at(track.watermark.value))

        async def goes_on() -> bool:
            return len(sent) > taken

        await until(goes_on)
    assert reported <= taken
    assert taken <= 3


async def test_a_track_superseded_twice_is_counted_once() -> None:
    async with producer(sends(frame(1, "a"))) as at:
        await at.has_arrived(1)
        at.is_ready.clear()
        at.feed.supersede()

        async def is_being_made() -> bool:
            return at.asked_ready == 2

        await until(is_being_made)
        at.feed.supersede()
        at.is_ready.set()
        await at.has_arrived(2)
    assert len(at.reported(Disconnected)) == 1


async def test_arrivals_on_a_superseded_track_are_left_to_its_successor() -> None:
    """It would have no place in the order of its key: that is forgotten."""
    at = Harness("ws://nowhere")

    coming = [encode(Welcome(journal="j", key="k", epochs=EPOCHS, first=1, last=0)), frame(1, "a"), frame(2, "b")]

    class Connection:
        async def send(self, text: str) -> None: ...

        async def recv(self) -> bytes:
            if len(coming) == 1:
                at.feed.supersede()  # while the frame is on its way to the feed
            return coming.pop(0)

    @asynccontextmanager
    async def dial(url: str) -> AsyncIterator[Connection]:
        yield Connection()

    at.feed._dial = dial
    await at.feed._connect_once()
    assert [arrival.id for arrival in at.arrived] == ["a"]


async def test_a_full_window_of_a_superseded_track_does_not_block_its_successor() -> None:
    """No cursor will ever be saved over it."""
    flood = frame(1, *map(str, range(1, 41)), size_bytes=WINDOW_BYTES // 30)

    async def hangs_up(connection: ServerConnection) -> None:
        await greet(connection)
        await connection.send(flood.decode())

    async with producer(hangs_up, sends(flood)) as at:
        await at.has_arrived(40)

        async def is_alone() -> bool:
            return bool(at.reported(ConnectingAgain))

        await until(is_alone)
        assert at.feed.used_bytes >= WINDOW_BYTES
        at.feed.supersede()
        await at.has_arrived(80)


async def test_a_producer_that_names_a_new_epoch_on_each_connection_gets_no_fresh_window_each_time() -> None:
    sent: list[int] = []
    flood = frame(1, *map(str, range(1, 21)), size_bytes=WINDOW_BYTES // 90)

    async def floods(connection: ServerConnection) -> None:
        sent.append(len(sent))
        await greet(connection, [*EPOCHS, Epoch(f"x{len(sent)}", 1)])
        await connection.send(flood.decode())

    async with producer(floods) as at:
        at.store.saved = SavedCursor(Cursor("e1", 0), EPOCHS)

        async def waits() -> bool:
            return at.feed._held_bytes() >= HELD_WINDOWS_MAX * WINDOW_BYTES

        await until(waits)
        taken = len(sent)
        await asyncio.sleep(10 * 0.02)  # ten times the longest wait between two connections
        assert len(sent) == taken
        assert len(at.arrived) == 20 * taken
        assert taken <= 3 * HELD_WINDOWS_MAX
        for arrival in at.arrived:
            arrival.track.end([arrival])

        async def goes_on() -> bool:
            return len(sent) > taken

        await until(goes_on)


async def test_offsets_that_go_backwards_are_an_overlap_and_nothing_arrives_twice() -> None:
    async with producer(sends(frame(1, "a", "b"), frame(1, "a", "b"), frame(2, "b", "c"))) as at:
        assert await at.has_arrived(3) == ["a", "b", "c"]


async def test_a_server_without_the_protocol_is_reported_plainly() -> None:
    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(silent, "127.0.0.1", 0) as server:
        at = Harness(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
        running = asyncio.create_task(at.feed.run())

        async def reported() -> list[Any]:
            return at.reported(Disconnected)

        (first, *_) = await until(reported)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert "oncecast.v1" in first.reason


async def test_requests_are_answered_while_events_arrive() -> None:
    answers: list[Answer] = []

    async def script(connection: ServerConnection) -> None:
        await greet(connection)
        for id_ in (7, 8):
            await connection.send(encode(Ask(id=id_, method="GET", path=f"/{id_}")).decode())
        await connection.send(frame(1, "1").decode())
        while len(answers) < 2:
            reply = decode_client_frame(await connection.recv())
            if isinstance(reply, Answer):
                answers.append(reply)
        await connection.wait_closed()

    async with producer(script) as at:
        assert await at.has_arrived(1) == ["1"]
        assert not answers
        at.may_answer.set()

        async def answered() -> bool:
            return len(answers) == 2

        await until(answered)
    assert sorted((answer.id, answer.body) for answer in answers) == [(7, "/7"), (8, "/8")]


async def test_a_producer_that_floods_with_requests_is_disconnected() -> None:
    flood = [encode(Ask(id=n, method="GET", path="/")) for n in range(200)]
    async with producer(sends(*flood)) as at:

        async def reported() -> bool:
            return any("without waiting for answers" in telemetry.reason for telemetry in at.reported(Disconnected))

        await until(reported)


async def test_a_feed_that_is_cancelled_ends_though_its_connection_breaks_in_the_same_turn() -> None:
    async def hang_up(connection: ServerConnection) -> None:
        await greet(connection)

    async with producer(hang_up) as at:
        for turns in range(150):
            feed = asyncio.create_task(at.feed.run())
            before = len(at.reported(Connected))
            while len(at.reported(Connected)) == before:
                await asyncio.sleep(0)
            for _ in range(turns % 30):
                await asyncio.sleep(0)
            feed.cancel()
            done, _ = await asyncio.wait([feed], timeout=5)
            assert done, f"cancelled {turns % 30} turns after it was connected"


async def test_a_producer_that_sends_beyond_its_credit_is_disconnected_with_the_reason() -> None:
    resumed: list[int] = []

    async def ignores_credit(connection: ServerConnection) -> None:
        resumed.append((await greet(connection)).credit)
        with contextlib.suppress(ConnectionClosed):
            for first in range(1, 10_000):
                await connection.send(frame(first, str(first), size_bytes=WINDOW_BYTES // 3).decode())

    async with producer(ignores_credit) as at:

        async def disconnected() -> list[Disconnected]:
            return at.reported(Disconnected)

        (first, *_) = await until(disconnected)
        held = at.feed.used_bytes
    assert "sent more than its credit" in first.reason
    assert "WINDOW_BYTES" in first.reason
    assert held < 3 * WINDOW_BYTES, "one frame may be larger than the window, further ones are not taken"


async def test_small_events_take_up_the_window_with_the_objects_that_they_become() -> None:
    count = WINDOW_BYTES // EVENT_COST_BYTES + 1
    text = events_frame(1, 0, encode([msgspec.Raw(b'{"id":"%d","source":"/","type":"t"}' % n) for n in range(count)]))
    assert len(text) < WINDOW_BYTES // 10
    async with producer(sends(text)) as at:
        await at.has_arrived(count)
        assert at.feed.used_bytes >= WINDOW_BYTES


async def test_an_event_larger_than_the_window_arrives_alone() -> None:
    async with producer(sends(frame(1, "large", size_bytes=3 * WINDOW_BYTES))) as at:
        assert await at.has_arrived(1) == ["large"]
        assert not at.reported(Disconnected)


async def test_the_back_off_grows_until_a_connection_has_received_a_frame() -> None:
    """A connection that breaks right after its welcome is made again ever more seldom, and is counted on."""

    async def hangs_up(connection: ServerConnection) -> None:
        await greet(connection)

    async def brings(connection: ServerConnection) -> None:
        await greet(connection)
        await connection.send(frame(1, "a").decode())

    async with producer(hangs_up, hangs_up, hangs_up, brings) as at:

        async def tried_often() -> bool:
            return len(at.reported(Reconnecting)) >= 5

        await until(tried_often)
    assert [telemetry.attempt for telemetry in at.reported(Reconnecting)][:5] == [1, 2, 3, 1, 1]


async def test_a_producer_without_the_key_of_its_journal_is_refused_and_moves_no_cursor() -> None:
    async def hostile(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await greet(connection, key="guessed")
            await connection.send(frame(1, "forged").decode())
            await connection.wait_closed()

    resumed: list[str | None] = []

    async def honest(connection: ServerConnection) -> None:
        resumed.append((await greet(connection)).after)

    async with producer(honest, hostile) as at:
        await some(resumed)
        saved = at.store.saved = SavedCursor(Cursor("e1", 7), EPOCHS)

        async def is_refused() -> bool:
            return any("does not show its key" in reported.reason for reported in at.reported(Disconnected))

        await until(is_refused)
        assert (at.store.saved, at.arrived) == (saved, [])
        reported = next(reported.reason for reported in at.reported(Disconnected) if "key" in reported.reason)
        assert "names the journal j" in reported
        assert "delete the journal's row from g.journals" in reported


async def test_without_the_journal_key_the_reason_names_the_wrong_token() -> None:
    async def script(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await greet(connection, key=None)

    async with producer(script) as at:

        async def is_reported() -> bool:
            return any("LISTENER_TOKEN is missing" in reported.reason for reported in at.reported(Disconnected))

        await until(is_reported)
    assert at.store.key_hash is None, "nothing is remembered of it"


async def test_only_one_feed_reads_a_journal_and_the_second_continues_when_the_first_ends() -> None:
    first_may_end = asyncio.Event()
    resumed: list[str | None] = []

    async def first(connection: ServerConnection) -> None:
        resumed.append((await greet(connection)).after)
        await connection.send(frame(1, "1", "2").decode())
        await first_may_end.wait()

    async def gone(connection: ServerConnection) -> None:
        await connection.close()

    async def second(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            resumed.append((await greet(connection)).after)
            await connection.wait_closed()

    async with producer(first, gone) as at:
        await at.has_arrived(2)
        track = at.feed.track
        async with producer(second, alongside=at) as other:

            async def is_reported() -> bool:
                return any(
                    "serve the same journal, j: name one" in reported.reason
                    for reported in other.reported(Disconnected)
                )

            await until(is_reported)
            assert resumed == [None]
            first_may_end.set()

            async def has_taken_over() -> bool:
                return len(resumed) == 2

            await until(has_taken_over)
            assert track is not None
            assert track.abandoned.is_set(), "what the first has read is read again by the second"
