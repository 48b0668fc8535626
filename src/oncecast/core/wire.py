"""The WebSocket protocol between producers and listeners: the subprotocol `oncecast.v1`.

Frames are JSON text, each an object with a `verb`. The server begins with `welcome`; the client answers `resume`. The
server then sends `events` frames, and a `gap` for events that are gone, while the client has credit. The client sends
more `credit` and its `report`. The server may also `ask` on behalf of an operator, and the client sends its `answer`.
Unknown fields are ignored, so that later versions can add some.
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
"""The largest `answer` frame."""
FRAME_MAX_EVENTS = 10_000
"""The most events in a frame: a listener must hold at least one whole frame."""
LARGEST_EVENT_MAX_BYTES = 16 * 1024 * 1024
"""The upper limit of EVENT_MAX_BYTES and FRAME_MAX_BYTES: every listener can read what any producer accepts."""
FRAME_LIMIT_BYTES = LARGEST_EVENT_MAX_BYTES + 1024 * 1024
"""The largest frame that every reader accepts: the largest event and the text around it."""
AT_MAX_US = 253_402_214_400_000_000
"""The last day of the year 9999: a later time cannot be stored in PostgreSQL or read back."""

Offset = Annotated[int, msgspec.Meta(ge=1, le=OFFSET_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=OFFSET_MAX)]
"""A number from 0, such as a count or the offset before the first."""
Name = Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z]{1,64}$")]
"""The name of a journal or an epoch, used in cursors and in PostgreSQL."""


class Epoch(msgspec.Struct, frozen=True, array_like=True):
    """One opening of a journal, `[epoch, first]` on the wire: its name and the first offset written in it."""

    epoch: Name
    first: Offset


class Welcome(msgspec.Struct, tag="welcome", tag_field="verb", kw_only=True):
    """The server's first frame: the name of the journal, its epochs, and the offsets that it can serve.

    `first` is the oldest offset still kept, `last` the newest; an empty journal has `last == first - 1`. `key` is the
    secret of the journal, by which a listener recognises it. Only a client that may be a listener gets it.
    """

    version: int = VERSION
    journal: Name
    key: Name | None = None
    epochs: list[Epoch]
    first: Offset
    last: Count


class Resume(msgspec.Struct, tag="resume", tag_field="verb", kw_only=True):
    """The client's answer: its name, the cursor after which it reads, and how many bytes it can receive.

    A client with a `group` is a listener, and needs the right to be one of that group. With the group `""` it only
    reads. Without `after` it reads from the oldest event. Each event costs `event_cost` bytes of credit in addition
    to its frame, because a listener needs more memory than the text.
    """

    instance: str
    group: str
    after: str | None = None
    credit: int
    event_cost: Annotated[int, msgspec.Meta(ge=0, le=EVENT_COST_MAX_BYTES)] = 0


class Events(msgspec.Struct, tag="events", tag_field="verb", kw_only=True):
    """Consecutive events from `offset` on; `at` is the Unix time in µs at which the journal accepted them.

    The frame may begin before the requested cursor; the reader drops the overlap. It costs its bytes and the
    `event_cost` of each event. The server sends while any credit is left, so the last frame may cost more than is
    left: an event larger than the client's window still arrives, alone.
    """

    offset: Offset
    at: Annotated[int, msgspec.Meta(ge=0, le=AT_MAX_US)]
    events: list[msgspec.Raw]


class Gap(msgspec.Struct, tag="gap", tag_field="verb", kw_only=True):
    """Events that can no longer be read: an operator has skipped offsets `first` to `last`."""

    first: Offset
    last: Offset


class Credit(msgspec.Struct, tag="credit", tag_field="verb"):
    """The number of further bytes that the client can receive."""

    bytes: int


class PublishFailure(msgspec.Struct, kw_only=True):
    """A failed attempt: its event, the error, the retries left, and the time (Unix seconds)."""

    id: str
    source: str
    error: str
    retries_left: Count
    at: float


class ListenerReport(msgspec.Struct, tag="report", tag_field="verb", kw_only=True):
    """The state of a listener, sent about once a second.

    `cursor` is the group's *saved* cursor, the only one that retention may use. The counters are totals since the
    start of the listener.
    """

    cursor: str | None = None
    received: Count = 0
    stored: Count = 0
    duplicates: Count = 0
    dead: Count = 0
    conflicts: Count = 0
    in_flight: Count = 0
    rate: float = 0.0
    """Events stored per second, recently."""
    demonstration: bool = False
    """Whether it runs the built-in application, which fails events of type `oncecast.failing`."""
    failures: list[PublishFailure] = []
    """Recent failures, the newest last."""
    on_standby: str | None = None
    """Why the listener is on standby; None while it works."""
    health: Health | None = None
    """The health that the listener reports."""


class Ask(msgspec.Struct, tag="ask", tag_field="verb", kw_only=True):
    """A request of an operator to the listener's own API. The answer repeats the `id`."""

    id: Count
    method: str
    path: str
    query: str = ""
    body: str = ""


class Answer(msgspec.Struct, tag="answer", tag_field="verb", kw_only=True):
    """The listener's answer: an HTTP status and a JSON body."""

    id: Count
    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    body: str


ServerFrame = Welcome | Events | Gap | Ask
ClientFrame = Resume | Credit | ListenerReport | Answer

decode_server_frame = msgspec.json.Decoder(ServerFrame).decode
decode_client_frame = msgspec.json.Decoder(ClientFrame).decode
encode = msgspec.json.encode


class Head(msgspec.Struct, gc=False):
    """The attributes by which a listener identifies and routes an event; the payload stays undecoded."""

    id: str
    source: str
    type: str


decode_head = msgspec.json.Decoder(Head).decode
decode_heads = msgspec.json.Decoder(list[Head]).decode
"""Returns the heads of a JSON array of events. Raises msgspec.DecodeError for another text."""


def events_frame(offset: int, at_us: int, body: bytes) -> bytes:
    """Return the `events` frame of a journal batch; `body` is its JSON array."""
    return b'{"verb":"events","offset":%d,"at":%d,"events":%b}' % (offset, at_us, body)


def epoch_of(epochs: Sequence[Epoch], offset: int) -> str:
    """Return the epoch in which `offset` was written (or would be, after the newest)."""
    return next((e.epoch for e in reversed(epochs) if e.first <= offset), epochs[0].epoch)


def has_heard_of(epochs: Sequence[Epoch], saved: Sequence[Epoch]) -> bool:
    """Return whether `epochs` begin with all epochs that a cursor was saved with.

    If not, one of the two has a divergent history: the journal was restored from a copy.
    """
    # rule: only a listener that knows the epochs of the saved cursor moves it
    return list(epochs[: len(saved)]) == list(saved)


def resume_after(cursor: Cursor | None, known: Sequence[Epoch], served: Sequence[Epoch]) -> int:
    """Return the offset after which a reader resumes in a journal whose epochs are `served`.

    `known` are the epochs that the reader has seen. It resumes in the newest epoch common to both, at the latest
    where that epoch ended on either side. Without a common epoch it reads all (0): reading too much is safe, skipping
    is not.
    """
    if cursor is None:
        return 0
    offset = cursor.offset
    for epoch in reversed(known):
        if epoch.first > offset + 1 or (epoch.first > offset and epoch.epoch != cursor.epoch):
            continue  # the reader had not begun to read this epoch
        here = next((i for i, e in enumerate(served) if e.epoch == epoch.epoch), None)
        if here is not None:
            end = served[here + 1].first - 1 if here + 1 < len(served) else offset
            # rule: a reader resumes within the last epoch that it shares with the journal
            return min(offset, end)
        offset = min(offset, epoch.first - 1)
    return 0
