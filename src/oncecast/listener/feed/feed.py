"""The feed: a connection to one producer, reconnected after each failure and resumed where it broke off.

Everything that a producer sends is checked: it may be broken or hostile. Credit bounds the events in memory, and
deadlines detect half-open connections.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from oncecast.client.address import without_credentials
from oncecast.core.clock import Clock
from oncecast.core.cursors import SavedCursor, cursor_at, offset_in
from oncecast.core.errors import RowLocked, Unavailable
from oncecast.core.ports import Cursors
from oncecast.core.ranges import EVENT_COST_BYTES, Range, RangeRules
from oncecast.core.retry import Backoff
from oncecast.core.telemetry import (
    Connected,
    ConnectingAgain,
    Disconnected,
    GapNoted,
    Received,
    Reconnecting,
    Record,
)
from oncecast.core.wire import (
    FRAME_MAX_EVENTS,
    VERSION,
    Answer,
    Ask,
    Credit,
    Epoch,
    Events,
    Gap,
    ListenerReport,
    Resume,
    ServerFrame,
    Welcome,
    decode_server_frame,
    encode,
    resume_after,
)
from oncecast.listener.feed.dial import Dial, FeedConnection, Lost
from oncecast.listener.feed.journals import Journals, ProducerError
from oncecast.listener.feed.track import Track, cost_bytes
from oncecast.tasks import cancel_all, error_of, run_until_first_end, wait_any

WELCOME_DEADLINE_S = 10.0
WRITE_DEADLINE_S = 10.0
REPORT_INTERVAL_S = 1.0
FRAME_EVENTS_TAKEN_MAX = 10 * FRAME_MAX_EVENTS
"""A frame from a journal of an earlier release may have more than FRAME_MAX_EVENTS."""
HELD_WINDOWS_MAX = 2
"""A feed whose tracks hold this number of windows does not connect. One window is not enough: a superseded track may
fill it, and its successor must read."""
ROOM_INTERVAL_S = 1.0
ASKED_MAX = 100
ASK_MAX_BYTES = 4 * 1024 * 1024
"""A producer relays requests of at most 1 MiB; as a JSON string they are longer."""
WELCOME_MAX_BYTES = 4 * 1024 * 1024


class Feed:
    """Passes the events of the producer at `url` to `receive(ranges)`, cut by `rules`.

    `window_bytes` is its credit. `ready()` waits for the store, and returns whether the previous process may have
    crashed on the next events. `report()` returns the current report, `answer(ask)` the answer to a request that an
    operator makes through the producer.
    """

    def __init__(
        self,
        url: str,
        *,
        instance: str,
        group: str,
        dial: Dial,
        window_bytes: int,
        rules: RangeRules,
        reconnect: Backoff,
        from_latest: bool,
        clock: Clock,
        store: Cursors,
        journals: Journals,
        ready: Callable[[], Awaitable[bool]],
        receive: Callable[[list[Range]], None],
        report: Callable[[], ListenerReport],
        answer: Callable[[Ask], Awaitable[Answer]],
        record: Record,
    ) -> None:
        self.url = url
        self.shown_url = without_credentials(url)
        self.track: Track | None = None
        self.connected = False
        self._instance = instance
        self._group = group
        self._dial = dial
        self._window_bytes = window_bytes
        self._rules = rules
        self._reconnect = reconnect
        self._from_latest = from_latest
        self._clock = clock
        self._store = store
        self._journals = journals
        self._ready = ready
        self._receive = receive
        self._report = report
        self._answer = answer
        self._record = record
        self.used_bytes = 0
        """Bytes of this producer's events in memory."""
        self._abandoned: weakref.WeakSet[Track] = weakref.WeakSet()
        """Superseded tracks with events still in memory; an entry disappears with its last event."""
        self._owed_bytes = 0
        self._credit_bytes = 0
        """Credit that the producer has left on this connection."""
        self._brought_something = False
        """Whether this connection has received a frame after the welcome."""
        self._owing = asyncio.Event()
        self._doubted_epochs: list[Epoch] | None = None
        """Epochs of the group's cursor that the last welcome did not name."""

    def supersede(self) -> None:
        """Drop the current track: the next connection reads from the saved cursor."""
        if self.track is not None:
            self.track.abandon()
            self._abandoned.add(self.track)

    async def run(self) -> None:
        """Connect and receive; after a failure reconnect, with a back-off of 1 to 30 s with jitter.

        The back-off restarts once a connection has received a frame or has lasted 30 s; otherwise, a connection that
        breaks at once would be made every second.
        """
        attempt = 1
        while True:
            await self._has_room()
            began_s = self._clock.monotonic_s()
            self._brought_something = False
            try:
                await self._connect_once()
            except ProducerError as error:
                reason, self._brought_something = str(error), False
            except (Lost, Unavailable, RowLocked) as error:
                reason = str(error)
            except (OSError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                reason = "rows are read again"
            lasted_s = self._clock.monotonic_s() - began_s if self.connected else 0.0
            if self._brought_something or lasted_s >= self._reconnect.max_s:
                attempt = 1
            self.connected = False
            self._record(Disconnected(self.shown_url, reason))
            attempt += 1
            delay_s = self._reconnect.delay_s(attempt, self._clock.random())
            self._record(Reconnecting(self.shown_url, delay_s, attempt - 1))
            # rule: a feed connects again after its connection broke
            await self._clock.sleep(delay_s)
            self._record(ConnectingAgain(self.shown_url))

    async def _has_room(self) -> None:
        """Wait for free memory, so that repeated connections do not receive more than the window.

        The feed does not wait for ended events of an abandoned track: its cursor is never saved. It waits for events
        that have not ended when all tracks hold HELD_WINDOWS_MAX windows; otherwise, a producer that names a new
        epoch on each connection gets a fresh window each time.
        """
        # rule: a feed does not wait for credit of a superseded journal position
        while self.used_bytes >= self._window_bytes and self.track is not None and not self.track.is_superseded:
            self._owing.clear()
            await wait_any(self._owing, self.track.abandoned)
        while self._held_bytes() >= HELD_WINDOWS_MAX * self._window_bytes:  # a track's end is no event
            await self._clock.sleep(ROOM_INTERVAL_S)

    def _held_bytes(self) -> int:
        """Return the bytes of this feed's tracks, except a superseded track whose successor is still to come."""
        former_bytes = sum(track.abandoned_bytes for track in self._abandoned if track is not self.track)
        is_current = self.track is not None and not self.track.is_superseded
        return former_bytes + (self.used_bytes if is_current else 0)

    async def _connect_once(self) -> None:
        """Run one connection from its handshake on; raise the error that ends it."""
        try:
            async with self._dial(self.url) as connection:
                await self._converse(connection, await self._resume(connection))
        finally:
            self._journals.release(self)

    async def _converse(self, connection: FeedConnection, track: Track) -> None:
        self.connected = True
        self._record(Connected(self.shown_url, track.watermark.received))
        answers = _Answers()
        try:
            await run_until_first_end(
                self._read(connection, track, answers),
                self._give_credit(connection),
                self._make_reports(connection),
                self._watch_for_successor(track),
                answers.failed(),
            )
        finally:
            await cancel_all(answers.under_way)

    async def _resume(self, connection: FeedConnection) -> Track:
        async with asyncio.timeout(WELCOME_DEADLINE_S):
            text = await connection.recv()
        if len(text) > WELCOME_MAX_BYTES:
            raise ProducerError(f"{self.shown_url} sent a welcome of {len(text)} bytes (maximum {WELCOME_MAX_BYTES})")
        welcome = _decode(text)
        if not isinstance(welcome, Welcome) or welcome.version != VERSION or not welcome.epochs:
            raise ProducerError(f"{self.shown_url} sent no welcome of version {VERSION}")
        if not self._journals.has_met(welcome):
            await self._ready()
            await self._journals.meet(self.shown_url, welcome)
        self._journals.take(self, welcome.journal)
        track = await self._track_for(welcome)
        track.first = welcome.first
        self._owed_bytes = 0
        self._credit_bytes = self._window_bytes - self.used_bytes
        after = track.watermark.received
        resume = Resume(
            instance=self._instance,
            group=self._group,
            after=str(track.cursor_at(after)) if after else None,
            credit=self._credit_bytes,
            event_cost=EVENT_COST_BYTES,
        )
        async with asyncio.timeout(WRITE_DEADLINE_S):
            await connection.send(encode(resume).decode())
        return track

    async def _track_for(self, welcome: Welcome) -> Track:
        """Return the current track if the journal continues its history, else a new one from the saved cursor."""
        track = self.track
        if track is not None and track.journal == welcome.journal and not track.is_superseded:
            received = track.watermark.received
            goes_on = resume_after(track.cursor_at(received), track.epochs, welcome.epochs) == received
            # rule: a journal with a divergent history is read again from the saved cursor
            if goes_on and received + 1 >= welcome.first:
                track.epochs = list(welcome.epochs)
                return track
        self.supersede()
        in_doubt = await self._ready()
        incarnation = self._store.incarnation  # before the cursor is read, which may be that of a newer one
        after = await self._saved_offset(welcome)
        self.used_bytes = 0
        fresh = Track(welcome.journal, welcome.epochs, after, lambda n: self._freed(fresh, n), incarnation)
        fresh.suspected_bytes = self._window_bytes if in_doubt else 0
        if track is not None and track.journal == welcome.journal:
            fresh.distrusted_to = max(track.distrusted_to, track.watermark.received)
        self.track = fresh
        return fresh

    async def _saved_offset(self, welcome: Welcome) -> int:
        """Return the group's saved offset in this journal; record events that are already deleted as a gap."""
        journal, epochs = welcome.journal, welcome.epochs
        saved = await self._store.load_cursor(journal)
        if saved is None or offset_in(saved, epochs) is None:
            await (self._begin_cursor(welcome) if saved is None else self._leave_divergent_history(welcome, saved))
            saved = await self._store.load_cursor(journal)
        after = resume_after(saved.cursor, saved.epochs, epochs) if saved else 0
        if after + 1 < welcome.first:
            passed = await self._store.pass_gap(journal, epochs, first=welcome.first, reason="retention")
            if passed is None:
                raise Lost("the group's cursor has changed: reconnecting")
            if passed.offset > after:
                self._record(GapNoted(journal, after + 1, passed.offset))
                after = passed.offset
        return after

    async def _begin_cursor(self, welcome: Welcome) -> None:
        """Save the group's first cursor: events that it misses from now on are a gap."""
        begin = welcome.last if self._from_latest else welcome.first - 1
        # rule: a group saves a first cursor before it reads
        await self._store.begin_cursor(welcome.journal, welcome.epochs, cursor_at(welcome.epochs, begin))

    async def _leave_divergent_history(self, welcome: Welcome, saved: SavedCursor) -> None:
        """Replace a cursor with epochs that the welcome does not name: one of them is of a divergent history.

        The cursor may be newer than the welcome. So only the second welcome decides.
        """
        # rule: a listener asks twice before it replaces a cursor of a divergent history
        if saved.epochs != self._doubted_epochs:
            self._doubted_epochs = saved.epochs
            raise Lost("the group's cursor has an epoch that the journal does not name: asking again")
        await self._store.adopt_cursor(welcome.journal, welcome.epochs, instead_of=saved.epochs)

    async def _read(self, connection: FeedConnection, track: Track, answers: _Answers) -> None:
        while True:
            text = await connection.recv()
            # rule: events of a superseded journal position are left to its successor
            if track.is_superseded:
                return  # the new track receives it again, in order
            frame = _decode(text)
            if isinstance(frame, Ask):
                if len(answers.under_way) >= ASKED_MAX:
                    raise ProducerError(
                        f"{self.shown_url} sent more than {ASKED_MAX} requests without waiting for answers"
                    )
                if len(text) > ASK_MAX_BYTES:
                    raise ProducerError(
                        f"{self.shown_url} sent a request of {len(text)} bytes (maximum {ASK_MAX_BYTES})"
                    )
                answers.begin(self._give_answer(connection, frame))
                continue
            if isinstance(frame, Gap):
                self._spend(len(text))
                self._pass(track, frame, len(text))
                continue
            if not isinstance(frame, Events):
                raise ProducerError(f"{self.shown_url} sent {type(frame).__name__} (expected Events)")
            self._receive_events(track, frame, text)
            del frame, text  # free the memory before a long wait
            # Let other tasks process the events before the next frame is decoded.
            await self._clock.sleep(0)

    def _receive_events(self, track: Track, frame: Events, text: bytes) -> None:
        if len(frame.events) > FRAME_EVENTS_TAKEN_MAX:
            raise ProducerError(f"{self.shown_url} sent {len(frame.events)} events in one frame")
        spent_bytes = cost_bytes(frame, text)
        self._spend(spent_bytes)
        self.used_bytes += spent_bytes
        try:
            ranges = track.receive(frame, text, self._rules.max_events, decode=self._rules.decoded)
            ids = (ranges[0].first_id, ranges[-1].last_id) if ranges else None
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self.used_bytes -= spent_bytes
            raise ProducerError(f"{self.shown_url} sent a broken frame: {error}") from error
        self._brought_something = True
        if ids is not None:
            self._record(Received(sum(each.unended for each in ranges), *ids))
            self._receive(ranges)

    def _spend(self, count: int) -> None:
        """Subtract a frame from the credit; raise ProducerError if none was left."""
        if self._credit_bytes <= 0:
            raise ProducerError(
                f"{self.shown_url} sent more than its credit: {count} bytes after {self._window_bytes} in flight"
                " (WINDOW_BYTES); it is a producer of another release, or does not count credit"
            )
        self._credit_bytes -= count

    def _pass(self, track: Track, gap: Gap, size_bytes: int) -> None:
        try:
            track.skip(gap)
        except ValueError as error:
            raise ProducerError(f"{self.shown_url} sent a broken frame: {error}") from error
        self._brought_something = True
        self.used_bytes += size_bytes
        self._freed(track, size_bytes)

    def _freed(self, track: Track, count: int) -> None:
        if track is not self.track:
            return
        self.used_bytes -= count
        self._owed_bytes += count
        if self._owed_bytes >= self._window_bytes // 8:
            self._owing.set()

    async def _give_credit(self, connection: FeedConnection) -> None:
        while True:
            await self._owing.wait()
            self._owing.clear()
            owed_bytes, self._owed_bytes = self._owed_bytes, 0
            if owed_bytes > 0:
                self._credit_bytes += owed_bytes
                async with asyncio.timeout(WRITE_DEADLINE_S):
                    await connection.send(encode(Credit(owed_bytes)).decode())

    async def _give_answer(self, connection: FeedConnection, ask: Ask) -> None:
        answer = await self._answer(ask)
        async with asyncio.timeout(WRITE_DEADLINE_S):
            await connection.send(encode(answer).decode())

    async def _make_reports(self, connection: FeedConnection) -> None:
        while True:
            await self._clock.sleep(REPORT_INTERVAL_S)
            report = self._report()
            if self.track is not None and self.track.saved.offset:
                # rule: a listener reports its saved cursor, not what it has received
                report.cursor = str(self.track.saved)
            async with asyncio.timeout(WRITE_DEADLINE_S):
                await connection.send(encode(report).decode())

    async def _watch_for_successor(self, track: Track) -> None:
        # rule: a superseded journal position ends its connection
        await track.abandoned.wait()
        if track.fault is not None:
            raise ProducerError(f"{self.shown_url} sent a broken frame: {track.fault}")


class _Answers:
    """Answers in progress on one connection; the first that fails ends the connection."""

    def __init__(self) -> None:
        self.under_way: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, answer: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(answer)
        self.under_way.add(task)
        task.add_done_callback(self._ended)

    async def failed(self) -> None:
        """Wait until an answer fails, and raise its error."""
        await self._failed

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.under_way.discard(task)
        if (error := error_of(task)) is not None and not self._failed.done():
            self._failed.set_exception(error)


def _decode(text: bytes) -> ServerFrame:
    try:
        frame: ServerFrame = decode_server_frame(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProducerError(f"the producer sent an invalid frame: {error}") from error
    return frame
