"""Readers that use `oncecast.v1`: welcome, resume, then frames as long as their credit lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
from msgspec import UNSET, UnsetType
from starlette.websockets import WebSocket, WebSocketDisconnect

from oncecast.core.clock import Clock, utc_now
from oncecast.core.errors import JournalUnavailable
from oncecast.core.event import Cursor
from oncecast.core.groups import is_group_name
from oncecast.core.health import FINE, Finding, Health, Status
from oncecast.core.ports import Journal
from oncecast.core.telemetry import Record, SubscriberJoined, SubscriberLeft
from oncecast.core.wire import (
    SUBPROTOCOL,
    Answer,
    Ask,
    ClientFrame,
    Count,
    Credit,
    ListenerReport,
    PublishFailure,
    Resume,
    Welcome,
    decode_client_frame,
    encode,
)
from oncecast.http.tokens import may_listen
from oncecast.http.websocket import frame_writer
from oncecast.producer.broadcast.gone import GoneListeners, Member
from oncecast.producer.broadcast.reading import SLICE_BYTES, SLICE_EVENTS, ReadBudget
from oncecast.producer.broadcast.ring import Frame, Ring
from oncecast.producer.broadcast.session import SocketLimits, close, start_after
from oncecast.tasks import run_until_first_end

NORMAL_CLOSE = 1000
SILENT_AFTER_S = 2.8
"""Listeners report every second."""
_SILENT = "check the process and the network; the other listeners process its events"
READ_AHEAD_BYTES = 1024 * 1024
LISTENER_WEIGHT = 0.5
"""Reading for a listener costs half; reading from the ring costs nothing."""
CREDIT_MAX_BYTES = 2**40


class ProtocolError(Exception):
    """The reader violates `oncecast.v1`; the text is the reason of the close."""


class Reopened(Exception):
    """The journal has a new epoch, which the reader must learn: cursors must be the same for all readers."""


@dataclass(slots=True, eq=False)
class ListenerReader:
    """A connected listener and its last report."""

    socket: WebSocket
    instance: str
    group: str
    offset: int
    clock: Clock
    send_deadline_s: float
    report: ListenerReport = field(default_factory=ListenerReport)
    reported_at_s: float = field(init=False)
    write: Callable[[bytes], bool] | None = field(init=False)
    has_stopped: bool = False
    """Whether it has ended the connection as a stopping listener does."""
    _asked: dict[int, asyncio.Future[Answer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reported_at_s = self.clock.monotonic_s()
        self.write = frame_writer(self.socket.scope)

    def reported(self, report: ListenerReport) -> None:
        """Record the listener's newest report."""
        self.report, self.reported_at_s = report, self.clock.monotonic_s()

    @property
    def member(self) -> Member:
        """The group and the name of the listener."""
        return self.group, self.instance

    @property
    def silent_s(self) -> float:
        """Return the age of the newest report."""
        return self.clock.monotonic_s() - self.reported_at_s

    @property
    def health(self) -> Health:
        """Return the reported health; down if there was no report for SILENT_AFTER_S."""
        now, silent_s = utc_now(self.clock), self.silent_s
        if silent_s > SILENT_AFTER_S:
            since = now - timedelta(seconds=silent_s)
            reason = f"no report for {silent_s:.0f} s"
            return Health(status=Status.DOWN, since=since, reason=reason, remedy=_SILENT)
        return self.report.health or Health(status=Status.OK, since=now)

    async def send_frame(self, frame: Frame) -> None:
        """Send events, without waiting if the listener is not behind. Raises what `send` raises."""
        if self.write is None or not self.write(frame.encoded):
            await self.send(frame.text.decode())

    async def send(self, text: str) -> None:
        """Send a frame; raises TimeoutError if the listener does not receive it in time."""
        async with asyncio.timeout(self.send_deadline_s):
            await self.socket.send_text(text)

    async def ask(self, ask: Ask) -> Answer:
        """Return the listener's answer; raises ConnectionError if it leaves first. The caller sets the deadline."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[ask.id] = answer
        try:
            await self.send(encode(ask).decode())
            return await answer
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError(str(error)) from None
        finally:
            del self._asked[ask.id]

    def answered(self, answer: Answer) -> None:
        """Pass an answer to the waiting request, if it still waits."""
        waiting = self._asked.get(answer.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def left(self) -> None:
        """Fail the waiting requests, because the listener has left."""
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the listener left"))


class ListedListener(Health, frozen=True, kw_only=True):
    """A listener, as it has reported itself. Its `failures`, which contain event data, are only for readers."""

    instance: str
    group: str
    sent: Count
    lag: Count
    cursor: str | None
    received: Count
    stored: Count
    duplicates: Count
    dead: Count
    conflicts: Count
    in_flight: Count
    rate: float
    demonstration: bool
    on_standby: str | None
    failures: list[PublishFailure] | UnsetType = UNSET
    age_s: float


class ListenerHub:
    """All connected listeners."""

    def __init__(
        self, journal: Journal, ring: Ring, budget: ReadBudget, clock: Clock, limits: SocketLimits, record: Record
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._ring = ring
        self._budget = budget
        self._record = record
        self.readers: list[ListenerReader] = []
        self.gone = GoneListeners(clock)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one listener from its handshake to its end."""
        await socket.accept(subprotocol=SUBPROTOCOL)
        name, reason = "", "closed"
        try:
            resume, reader = await self._greet(socket)
            name = reader.instance
            self._record(SubscriberJoined("listener", name, reader.offset))
            self.readers.append(reader)
            self.gone.joined(reader.member)
            try:
                await _Session(self._clock, self._journal, self._ring, self._budget, reader, resume).run()
            finally:
                self.readers.remove(reader)
                reader.left()
                if reader.group and reader.member not in {other.member for other in self.readers}:
                    self.gone.left(reader.member, reader.report, has_stopped=reader.has_stopped)
        except ProtocolError as error:
            reason = str(error)
            await self._close(socket, 1008, reason)
        except Reopened as error:
            reason = str(error)
            await self._close(socket, 1012, reason)
        except JournalUnavailable as error:
            reason = str(error)
            await self._close(socket, 1011, reason)
        except (TimeoutError, WebSocketDisconnect, OSError):
            reason = "gone"
            await self._close(socket, 1001, "no answer in time")
        finally:
            if name:
                self._record(SubscriberLeft("listener", name, reason))

    async def _close(self, socket: WebSocket, code: int, reason: str) -> None:
        await close(socket, code, reason, self._limits.close_deadline_s)

    async def _greet(self, socket: WebSocket) -> tuple[Resume, ListenerReader]:
        journal = self._journal
        welcome = Welcome(
            journal=journal.name,
            key=journal.key if may_listen(socket.scope) else None,
            epochs=list(journal.epochs),
            first=journal.first,
            last=journal.last,
        )
        limits = self._limits
        async with asyncio.timeout(limits.listener_send_deadline_s):
            await socket.send_text(encode(welcome).decode())
        async with asyncio.timeout(limits.resume_deadline_s):
            resume = read_frame(await _receive_text(socket))
        if not isinstance(resume, Resume):
            raise ProtocolError("the first frame must be a resume")
        check_credit(resume.credit)
        if resume.group:
            self._check_group(socket, resume.group)
        offset = self._start(resume.after)
        instance, deadline_s = resume.instance[:64], limits.listener_send_deadline_s
        return resume, ListenerReader(socket, instance, resume.group, offset, self._clock, deadline_s)

    def _check_group(self, socket: WebSocket, group: str) -> None:
        """Raise ProtocolError unless the client may be a listener of `group`."""
        if not is_group_name(group):
            raise ProtocolError("invalid group name: use a-z, 0-9 and _, at most 40 characters")
        if not may_listen(socket.scope, group):
            raise ProtocolError(f"LISTENER_TOKEN is not that of the group {group!r}")
        known = {known.name for known in self._journal.groups.values() if not known.forgotten}
        known |= {reader.group for reader in self.readers if reader.group}
        groups_max = self._limits.groups_max
        if group not in known and len(known) >= groups_max:
            raise ProtocolError(f"there are {groups_max} groups already: run 'oncecast groups forget' for an old one")

    def _start(self, after: str | None) -> int:
        if after is None:
            return self._journal.first - 1
        try:
            cursor = Cursor.parse(after)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        return start_after(self._journal, cursor)

    def status(self) -> list[ListedListener]:
        """Return the last report of each connected listener, for the page and `/health`."""
        return [
            self._listed(reader.member, reader.report, reader.health, reader.silent_s, sent=reader.offset)
            for reader in self.readers
            if reader.group  # a reader without a group only reads, as `oncecast tail` does
        ]

    def gone_status(self) -> list[ListedListener]:
        """Return the last report of each listener that has gone."""
        now_s = self._clock.monotonic_s()
        return [
            self._listed((each.group, each.instance), each.report, each.health, now_s - each.left_at_s)
            for each in self.gone.listed()
        ]

    def _listed(
        self, member: Member, report: ListenerReport, health: Health, age_s: float, *, sent: int | None = None
    ) -> ListedListener:
        group, instance = member
        offset = _offset(report.cursor)
        return ListedListener(
            instance=instance,
            group=group,
            sent=offset if sent is None else sent,
            lag=max(0, self._ring.last - offset),
            age_s=round(age_s, 1),
            **{name: v for name, v in msgspec.structs.asdict(report).items() if name != "health"},
            **msgspec.structs.asdict(health),
        )

    def find_listeners(self) -> Finding:
        """Return the health of all listeners: degraded if one does not work, or has gone without a farewell."""
        gone = [each for each in self.gone_status() if each.status is Status.DOWN]
        ill = [each for each in self.status() if each.status is not Status.OK] + gone
        if not ill:
            return FINE
        worst = max(ill, key=lambda each: each.status is Status.DOWN)
        others = f"; and {len(ill) - 1} more" if len(ill) > 1 else ""
        reason = f"{worst.instance} of the group {worst.group} is {worst.status}: {worst.reason}{others}"
        return Finding(Status.DEGRADED, reason, worst.remedy)


class _Session:
    """The two tasks of a connected listener: one sends, the other receives."""

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        ring: Ring,
        budget: ReadBudget,
        reader: ListenerReader,
        resume: Resume,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._epoch = journal.epochs[-1]
        self._ring = ring
        self._budget = budget
        self._reader = reader
        self._credit_bytes = resume.credit
        self._event_cost_bytes = resume.event_cost
        self._credited = asyncio.Event()

    async def run(self) -> None:
        await run_until_first_end(self._send_loop(), self._receive_loop())

    async def _send_loop(self) -> None:
        while True:
            await self._ring.wait_beyond(self._reader.offset)
            if self._journal.epochs[-1] != self._epoch:
                raise Reopened("the journal has a new epoch: connect again")
            is_behind = not self._ring.holds(self._reader.offset + 1)
            for count, frame in enumerate(await self._ring.after(self._reader.offset, READ_AHEAD_BYTES), 1):
                while self._credit_bytes <= 0:
                    self._credited.clear()
                    await self._credited.wait()
                begun_s = self._clock.monotonic_s()
                await self._reader.send_frame(frame)
                self._credit_bytes -= frame.size_bytes + self._event_cost_bytes * frame.event_count
                self._reader.offset = frame.batch.last_offset
                if is_behind:
                    await self._budget.spend_since(
                        begun_s, 1 + frame.size_bytes // SLICE_BYTES, weight=LISTENER_WEIGHT
                    )
                elif count % SLICE_EVENTS == 0:
                    await self._clock.sleep(0)

    async def _receive_loop(self) -> None:
        while True:
            try:
                frame = read_frame(await _receive_text(self._reader.socket))
            except WebSocketDisconnect as ended:  # the send loop may end with another error at the same time
                self._reader.has_stopped = ended.code == NORMAL_CLOSE
                raise
            if isinstance(frame, Credit):
                check_credit(frame.bytes)
                self._credit_bytes = min(self._credit_bytes + frame.bytes, CREDIT_MAX_BYTES)
                self._credited.set()
            elif isinstance(frame, ListenerReport):
                self._reader.reported(frame)
            elif isinstance(frame, Answer):
                self._reader.answered(frame)
            else:
                raise ProtocolError("a connection may send only one resume")


async def _receive_text(socket: WebSocket) -> str:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    text: str | None = message.get("text")
    if text is None:
        raise ProtocolError("frames must be JSON text, not binary")
    return text


def read_frame(text: str) -> ClientFrame:
    """Decode a client's frame; raises ProtocolError."""
    try:
        frame: ClientFrame = decode_client_frame(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"invalid frame: {error}") from None
    return frame


def check_credit(credit_bytes: int) -> None:
    """Raise ProtocolError for credit out of range."""
    if not 0 < credit_bytes <= CREDIT_MAX_BYTES:
        raise ProtocolError(f"credit must be 1 to {CREDIT_MAX_BYTES} bytes")


def _offset(cursor: str | None) -> int:
    try:
        return Cursor.parse(cursor or "").offset
    except ValueError:
        return 0
