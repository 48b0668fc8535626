"""What producers and listeners say to each other over the WebSocket: the subprotocol `oncecast.v1`.

JSON text frames, each an object with a `verb`. The server opens with `welcome`; the client answers `resume`; the
server then sends `events` frames, and a `gap` where they are gone, for as long as the client's credit lasts; the
client gives `credit` back and makes its `report`. Beside that the server may `ask` what an operator wants to know,
and the client gives its `answer`. Unknown fields are ignored, so that either side may learn to say more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from oncecast.core.event import Cursor
from oncecast.core.health import Health

SUBPROTOCOL = "oncecast.v1"
PLAIN_SUBPROTOCOL = "cloudevents.json"
VERSION = 1
OFFSET_MAX = 2**53
EVENT_COST_MAX_BYTES = 1024 * 1024
ANSWER_MAX_BYTES = 1024 * 1024
"""A listener's answer to what an operator asks is a frame of at most this size."""
FRAME_MAX_EVENTS = 10_000
"""A producer writes at most this many events into a frame: a listener holds at least one whole frame."""
LARGEST_EVENT_MAX_BYTES = 16 * 1024 * 1024
"""The most that EVENT_MAX_BYTES and FRAME_MAX_BYTES may be: every listener takes what any producer accepts."""
FRAME_LIMIT_BYTES = LARGEST_EVENT_MAX_BYTES + 1024 * 1024
"""Every reader takes frames up to this size: the largest event, and what a producer writes around it."""
AT_MAX_US = 253_402_214_400_000_000
"""The last day of the year 9999: a later time is none to PostgreSQL, or none that it could be asked for again."""

Offset = Annotated[int, msgspec.Meta(ge=1, le=OFFSET_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=OFFSET_MAX)]
"""A number that is no offset, or the offset before the first."""
Name = Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z]{1,64}$")]
"""Of a journal or an epoch: it is written into cursors, and kept in PostgreSQL."""


class Epoch(msgspec.Struct, frozen=True, array_like=True):
    """One opening of a journal, `[epoch, first]` on the wire: its name and the first offset written in it."""

    epoch: Name
    first: Offset


class Welcome(msgspec.Struct, tag="welcome", tag_field="verb", kw_only=True):
    """The server's first frame: which journal this is, its openings, and the offsets that it can serve.

    `first` is the oldest offset still kept, `last` the newest; an empty journal has `last == first - 1`. `key` is the
    journal's secret. Only a client that may be a listener gets it: by the key it knows the journal again.
    """

    version: int = VERSION
    journal: Name
    key: Name | None = None
    epochs: list[Epoch]
    first: Offset
    last: Count


class Resume(msgspec.Struct, tag="resume", tag_field="verb", kw_only=True):
    """The client's answer: who it is, the cursor after which it reads on, and how many bytes it can take.

    A client with a `group` is a listener, and needs the right to be one of that group. Without (`""`) it only reads.
    Without `after` it reads from the earliest. Each event takes `event_cost` bytes of credit on top of its frame's,
    because a client that keeps events holds more than their text.
    """

    instance: str
    group: str
    after: str | None = None
    credit: int
    event_cost: Annotated[int, msgspec.Meta(ge=0, le=EVENT_COST_MAX_BYTES)] = 0


class Events(msgspec.Struct, tag="events", tag_field="verb", kw_only=True):
    """A run of events, dense from `offset`; `at` is the Unix time in µs at which the journal took them.

    It may begin before the cursor that was asked for: the reader drops the overlap. Credit counts the bytes
    of the whole frame, and the `event_cost` of each event. A server sends while some credit is left: the last frame
    may take more than that, so that an event larger than the client's window still arrives, alone.
    """

    offset: Offset
    at: Annotated[int, msgspec.Meta(ge=0, le=AT_MAX_US)]
    events: list[msgspec.Raw]


class Gap(msgspec.Struct, tag="gap", tag_field="verb", kw_only=True):
    """Events that nobody can read any more: an operator has skipped offsets `first` to `last`."""

    first: Offset
    last: Offset


class Credit(msgspec.Struct, tag="credit", tag_field="verb"):
    """The client can take this many bytes more."""

    bytes: int


class PublishFailure(msgspec.Struct, kw_only=True):
    """An attempt that failed: of which event, why, how many are left, and when (Unix seconds)."""

    id: str
    source: str
    error: str
    retries_left: Count
    at: float


class ListenerReport(msgspec.Struct, tag="report", tag_field="verb", kw_only=True):
    """How a listener is doing, about once a second.

    `cursor` is the group's *saved* cursor, the only one that retention may go by. The counters are totals
    since the listener's start.
    """

    cursor: str | None = None
    received: Count = 0
    stored: Count = 0
    duplicates: Count = 0
    dead: Count = 0
    conflicts: Count = 0
    in_flight: Count = 0
    rate: float = 0.0
    """Events stored a second, of late."""
    demonstration: bool = False
    """Whether it runs the built-in application, which fails events of type `oncecast.failing`."""
    failures: list[PublishFailure] = []
    """The newest last."""
    on_standby: str | None = None
    """Why it does not work, if it does not."""
    health: Health | None = None
    """How it says that it is."""


class Ask(msgspec.Struct, tag="ask", tag_field="verb", kw_only=True):
    """What an operator asks of the group: a request to the listener's own API. The answer repeats the `id`."""

    id: Count
    method: str
    path: str
    query: str = ""
    body: str = ""


class Answer(msgspec.Struct, tag="answer", tag_field="verb", kw_only=True):
    """The listener's answer: a status as in HTTP, and the body's JSON."""

    id: Count
    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    body: str


ServerFrame = Welcome | Events | Gap | Ask
ClientFrame = Resume | Credit | ListenerReport | Answer

decode_server_frame = msgspec.json.Decoder(ServerFrame).decode
decode_client_frame = msgspec.json.Decoder(ClientFrame).decode
encode = msgspec.json.encode


class Head(msgspec.Struct, gc=False):
    """What a listener must know of an event to agree with others on it; the payload stays undecoded."""

    id: str
    source: str
    type: str


class _Heads(msgspec.Struct):
    events: list[Head]


_decode_heads = msgspec.json.Decoder(_Heads).decode


def decode_heads(frame: str | bytes) -> list[Head]:
    """The heads of an `events` frame, in its order; raises msgspec.DecodeError on anything else."""
    return _decode_heads(frame).events


def events_frame(offset: int, at_us: int, body: bytes) -> bytes:
    """The frame of a journal's batch; `body` is the JSON array as the journal keeps it."""
    return b'{"verb":"events","offset":%d,"at":%d,"events":%b}' % (offset, at_us, body)


def epoch_of(epochs: Sequence[Epoch], offset: int) -> str:
    """The opening in which `offset` was written (or would be, beyond the newest)."""
    return next((e.epoch for e in reversed(epochs) if e.first <= offset), epochs[0].epoch)


def has_heard_of(epochs: Sequence[Epoch], saved: Sequence[Epoch]) -> bool:
    """Whether who knows `epochs` has heard of every opening that a cursor was saved with.

    If not, one of the two knows a future of the journal that is lost: a copy was restored.
    """
    # rule: only a listener that knows the epochs of the saved cursor moves it
    return list(epochs[: len(saved)]) == list(saved)


def resume_after(cursor: Cursor | None, known: Sequence[Epoch], served: Sequence[Epoch]) -> int:
    """The offset after which a reader goes on in a journal whose openings are `served`.

    `known` are the openings that the reader has seen. It goes on from the newest opening known to both; where
    that one ended, here or there, before the reader's offset, it goes on from that end. Without any in common
    it reads all (0): reading too much is safe, skipping is not.
    """
    if cursor is None:
        return 0
    offset = cursor.offset
    for epoch in reversed(known):
        if epoch.first > offset + 1 or (epoch.first > offset and epoch.epoch != cursor.epoch):
            continue  # an opening that the reader had not begun to read
        here = next((i for i, e in enumerate(served) if e.epoch == epoch.epoch), None)
        if here is not None:
            end = served[here + 1].first - 1 if here + 1 < len(served) else offset
            # rule: a reader resumes within the last epoch that it shares with the journal
            return min(offset, end)
        offset = min(offset, epoch.first - 1)
    return 0
