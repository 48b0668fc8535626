"""Plain clients: any WebSocket client receives each event as one frame, and publishes by sending one.

Clients that have received everything so far are served together: each event is encoded once, and its bytes are
written to all of them. A client that is behind, because it began earlier or reads slowly, catches up on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from oncecast.core.errors import JournalUnavailable
from oncecast.core.event import ACCEPTED, PRODUCER_SOURCE, REFUSED, Cursor
from oncecast.core.journal import JournalBatch
from oncecast.core.ports import Journal
from oncecast.core.telemetry import PublicationRefused, Record, SubscriberJoined, SubscriberLeft
from oncecast.core.wire import PLAIN_SUBPROTOCOL, epoch_of
from oncecast.event import Event
from oncecast.http.problems import Problem, refuse_handshake
from oncecast.http.tokens import may
from oncecast.http.websocket import encoded_frame, frame_writer
from oncecast.producer.broadcast.reading import SLICE_BYTES, SLICE_EVENTS, ReadBudget
from oncecast.producer.broadcast.ring import Frame, Ring
from oncecast.producer.broadcast.session import SocketLimits, close, start_after
from oncecast.tasks import STALL_S, idle, run_until_first_end, working

READ_AHEAD_BYTES = 256 * 1024
SLICE_S = 0.0005
"""How long events are written to clients before other tasks have a turn."""


_NO_RIGHT = Problem(401, "publishing needs the publish token, which this connection does not have")

PublishFrame = Callable[[bytes], Awaitable[dict[str, object]]]
_decode_events = msgspec.json.Decoder(list[msgspec.Raw]).decode


class ClientHub:
    """All connected plain clients.

    `publishing(query)` returns the function that publishes a client's frames, as `POST /events?query` does.
    """

    def __init__(
        self,
        journal: Journal,
        ring: Ring,
        budget: ReadBudget,
        publishing: Callable[[bytes], PublishFrame],
        limits: SocketLimits,
        record: Record,
    ) -> None:
        self._journal = journal
        self._ring = ring
        self.budget = budget
        self._publishing = publishing
        self.limits = limits
        self._record = record
        self.count = 0
        self._live: set[_Session] = set()
        """The clients that are served together."""
        self._sent = 0
        """The offset up to which they have everything, or will before the next frame."""
        self._has_live = asyncio.Event()

    # --- clients that are served together ------------------------------------------------------------------

    def join(self, session: _Session) -> bool:
        """Let a client be served together with the others, if it has all that they have."""
        if session.write is None or session.offset < (self._sent if self._live else self._ring.last):
            return False
        if not self._live:
            self._sent = session.offset
        self._live.add(session)
        self._has_live.set()
        return True

    def leave(self, session: _Session) -> None:
        """Let a client catch up on its own."""
        self._live.discard(session)
        session.on_its_own.set()
        if not self._live:
            self._has_live.clear()

    async def broadcast_loop(self) -> None:
        """Send each new event to all clients that are served together."""
        while True:
            idle()
            await self._has_live.wait()
            await self._ring.wait_beyond(self._sent)
            working(STALL_S)
            try:
                frames = await self._ring.after(self._sent, READ_AHEAD_BYTES)
            except JournalUnavailable:  # each client reads by itself, and ends with this error
                for session in list(self._live):
                    self.leave(session)
                continue
            for frame in frames:
                for part in _parts(frame.batch):
                    working(STALL_S)
                    await self._broadcast(part)

    async def _broadcast(self, part: _Part) -> None:
        """Send a part of a batch, within the budget of all readers."""
        self._sent = part.last
        monotonic_s = self.budget.monotonic_s
        begun_s = monotonic_s()
        for session in list(self._live):
            if session in self._live and not session.receive(part):
                self.leave(session)
            if (now_s := monotonic_s()) > begun_s + SLICE_S:
                await self.budget.spend(now_s - begun_s)
                begun_s = monotonic_s()
        await self.budget.spend(monotonic_s() - begun_s)

    # --- one client ----------------------------------------------------------------------------------------

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client from its handshake to its end."""
        offered = socket.scope.get("subprotocols", ())
        try:
            offset = self._start(socket)
            publish = self._publishing(socket.scope["query_string"])
        except Problem as problem:
            await refuse_handshake(socket.scope, Problem(403, problem.detail), socket.send)
            return
        await socket.accept(subprotocol=PLAIN_SUBPROTOCOL if PLAIN_SUBPROTOCOL in offered else None)
        name = socket.client.host if socket.client else "?"
        self.count += 1
        self._record(SubscriberJoined("client", name, offset))
        code, reason = 0, "gone"
        try:
            await _Session(socket, self, offset, publish).run()
        except (WebSocketDisconnect, OSError):
            return
        except TooSlow as error:
            code, reason = 1013, str(error)
        except NotText as error:
            code, reason = 1003, str(error)
        except JournalUnavailable as error:
            code, reason = 1011, str(error)
        finally:
            self.count -= 1
            self._record(SubscriberLeft("client", name, reason))
        await close(socket, code, reason, self.limits.close_deadline_s)

    def _start(self, socket: WebSocket) -> int:
        after, begin = socket.query_params.get("after"), socket.query_params.get("from")
        if after is not None:
            try:
                return start_after(self._journal, Cursor.parse(after))
            except ValueError as error:
                raise Problem(400, str(error)) from None
        if begin not in (None, "earliest", "latest"):
            raise Problem(400, "invalid from: expected earliest or latest")
        return self._journal.first - 1 if begin == "earliest" else self._journal.last

    async def frames_after(self, offset: int) -> list[Frame]:
        """Wait for frames after `offset`, and return them."""
        await self._ring.wait_beyond(offset)
        return await self._ring.after(offset, READ_AHEAD_BYTES)

    def cursor(self, offset: int) -> Cursor:
        """Return the cursor of an offset."""
        return Cursor(epoch_of(self._journal.epochs, max(1, offset)), offset)

    async def answer(self, text: str, publish: PublishFrame) -> bytes:
        """Publish a client's frame; return the acknowledgement or refusal as an event."""
        try:
            accepted = await publish(text.encode("utf-8", "surrogatepass"))
        except Problem as problem:
            return self.refuse(problem)
        if not accepted["accepted"]:  # a frame must contain an event
            return self.refuse(Problem(422, "the frame contains no event"))
        return Event.new(ACCEPTED, accepted, source=PRODUCER_SOURCE).to_json()

    def refuse(self, problem: Problem) -> bytes:
        """Return the refusal of a client's frame as an event."""
        self._record(PublicationRefused(problem.status, problem.detail, problem.kind))
        refusal = msgspec.json.decode(problem.body())
        return Event.new(REFUSED, refusal, source=PRODUCER_SOURCE).to_json()


@dataclass(frozen=True, slots=True)
class _Part:
    """The events of the offsets `first` to `last` as encoded frames; empty for a gap."""

    first: int
    last: int
    frames: bytes


def _parts(batch: JournalBatch) -> Iterator[_Part]:
    """Divide a batch into parts of about SLICE_BYTES: more is not kept for a client that does not read."""
    frames: list[bytes] = []
    first, size_bytes = batch.first_offset, 0
    for offset, event in enumerate(_decode_events(batch.body), first):
        frames.append(encoded_frame(bytes(event)))
        size_bytes += len(event)
        if size_bytes >= SLICE_BYTES:
            yield _Part(first, offset, b"".join(frames))
            frames, first, size_bytes = [], offset + 1, 0
    if frames or batch.is_gap:
        yield _Part(first, batch.last_offset, b"".join(frames))


class TooSlow(Exception):
    """A client did not receive a frame in time; the text has the cursor to continue from."""


class NotText(Exception):
    """A client sent a binary frame."""


class _Session:
    def __init__(self, socket: WebSocket, hub: ClientHub, offset: int, publish: PublishFrame) -> None:
        self._socket = socket
        self._publish = publish
        self._hub = hub
        self.offset = offset
        """Up to here, all was sent to the client."""
        self.write = frame_writer(socket.scope)
        self.on_its_own = asyncio.Event()
        """Set when the client is served together with others no longer."""
        self._one_at_a_time = asyncio.Lock()
        self._may_publish = may(socket.scope, "publish")

    async def run(self) -> None:
        try:
            await run_until_first_end(self._send_loop(), self._receive_loop())
        finally:
            self._hub.leave(self)

    def receive(self, part: _Part) -> bool:
        """Send a part at once; return False if the client is behind it, or does not read."""
        if self.offset >= part.last:
            return True
        if self.offset + 1 != part.first or self.write is None:
            return False
        if part.frames and not self.write(part.frames):
            return False
        self.offset = part.last
        return True

    async def _send_loop(self) -> None:
        while True:
            if self._hub.join(self):
                await self.on_its_own.wait()
                self.on_its_own.clear()
            for frame in await self._hub.frames_after(self.offset):
                await self._send_batch(frame.batch)

    async def _send_batch(self, batch: JournalBatch) -> None:
        """Send the batch's events after the offset, in slices within the budget of all readers."""
        budget, monotonic_s = self._hub.budget, self._hub.budget.monotonic_s
        begun_s = monotonic_s()
        events = _decode_events(batch.body)
        await budget.spend(monotonic_s() - begun_s)
        begun_s, count, size_bytes = monotonic_s(), 0, 0
        for event in islice(events, max(0, self.offset + 1 - batch.first_offset), None):
            await self._send(bytes(event).decode())
            self.offset = max(self.offset + 1, batch.first_offset)
            count, size_bytes = count + 1, size_bytes + len(event)
            if count >= SLICE_EVENTS or size_bytes >= SLICE_BYTES:
                await budget.spend_since(begun_s, count)
                begun_s, count, size_bytes = monotonic_s(), 0, 0
        self.offset = max(self.offset, batch.last_offset)  # a gap has no events to send
        await budget.spend_since(begun_s, count)

    async def _receive_loop(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            text = message.get("text")
            if text is not None and not self._may_publish:
                await self._send(self._hub.refuse(_NO_RIGHT).decode())
                continue
            if text is None:
                raise NotText("events must be JSON in text frames, not binary frames")
            await self._send((await self._hub.answer(text, self._publish)).decode())

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._hub.limits.client_send_deadline_s), self._one_at_a_time:
                await self._socket.send_text(text)
        except TimeoutError:
            raise TooSlow(f"too slow; continue with ?after={self._hub.cursor(self.offset)}") from None
