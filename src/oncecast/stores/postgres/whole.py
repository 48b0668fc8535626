"""Insert many events by COPY, which costs PostgreSQL less than half of an insert.

COPY knows no conflicts: a row that exists fails it, and then nothing is inserted. So it is used for
new events of the usual form, which nearly all are; `insert` stores the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

import msgspec
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn
from psycopg.waiting import WAIT_W

from oncecast.core.event import IDENTITY_MAX_BYTES, Arrival
from oncecast.core.ranges import Range
from oncecast.stores.postgres.message import raise_failure

CHUNK_BYTES = 128 * 1024
"""libpq is given this much at a time; it cannot queue texts of any length."""
DELIMITER, END, NULL = RESERVED = b"\x1f", b"\x1e", b"\x1d"
"""Events that contain these have an unusual form. END becomes a line feed once those of the values are escaped."""
ESCAPES = ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r"))
DATABASE_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\.(?!0{6})[0-9]{6})?Z")
"""Times that PostgreSQL shows as they were given; others are also kept as text: see the function `time_as_given`."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NONE = (None, None, None, None)


_Identity = Annotated[str, msgspec.Meta(max_length=IDENTITY_MAX_BYTES // 4)]


class _Usual(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An event with attributes of CloudEvents only, and data in JSON."""

    specversion: str
    id: _Identity
    source: _Identity
    type: _Identity
    data: msgspec.Raw = msgspec.Raw(b"null")
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None


_decode = msgspec.json.Decoder(list[_Usual]).decode


class Run(NamedTuple):
    """Undecoded events at consecutive offsets, of one batch of the journal."""

    journal: str
    epoch: str
    first: int
    at_us: int
    raws: list[msgspec.Raw]


def runs_of_ranges(ranges: Iterable[Range]) -> list[Run]:
    """Return the events of undecoded ranges."""
    return [Run(each.track.journal, each.epoch, each.first_new, each.at_us, each.raws) for each in ranges]


def runs_of(arrivals: Iterable[Arrival]) -> list[Run]:
    """Return the events of arrivals in order of offset."""
    runs: list[Run] = []
    for arrival in arrivals:
        if runs and (runs[-1].first + len(runs[-1].raws), runs[-1].at_us) == (arrival.offset, arrival.at_us):
            runs[-1].raws.append(arrival.raw)
        else:
            runs.append(Run(arrival.journal, arrival.epoch, arrival.offset, arrival.at_us, [arrival.raw]))
    return runs


class Copied(NamedTuple):
    """Rows as text for COPY, in (source, id) order, so that transactions cannot deadlock."""

    rows: bytes
    kinds: Counter[tuple[str, str]]
    """The number of events of each type and source."""


def rows_to_copy(runs: Iterable[Run], listener: str) -> Copied | None:
    """Return the rows of all events; None if one has an unusual form, which only `insert` can store, or refuse."""
    kinds: Counter[tuple[str, str]] = Counter()
    try:
        rows = [row for run in runs for row in _rows(run, listener, kinds)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    rows.sort()
    text = END.join(rows) + END
    for character, escape in ESCAPES:
        if character in text:
            text = text.replace(character, escape)
    return Copied(text.replace(END, b"\n"), kinds)


def _rows(run: Run, listener: str, kinds: Counter[tuple[str, str]]) -> Iterator[bytes]:
    """Yield the row of each event, without escapes, and add to `kinds`. Raises ValueError for an unusual form."""
    accepted_at = (_EPOCH + timedelta(microseconds=run.at_us)).isoformat()
    names = (run.journal, run.epoch, listener)
    rest = _joined(accepted_at, *names, "1")
    usual_ending = b"%b\x1f%b" % (_joined(*[None] * 5), rest)
    text = b"[" + b",".join(run.raws) + b"]"
    has_reserved = any(character in text for character in RESERVED) or (b"\\" in text and b"\\u001" in text)
    if has_reserved or not "".join(names).isprintable():
        raise ValueError("a reserved character")
    events = _decode(text)
    kinds.update([(event.type, event.source) for event in events])
    for offset, event in enumerate(events, run.first):
        identity = f"{event.source}\x1f{event.id}\x1f{event.type}".encode()
        data = NULL if len(event.data) == 4 and bytes(event.data) == b"null" else event.data
        optional = (event.subject, event.time, event.datacontenttype, event.dataschema)
        ending = usual_ending
        if optional != _NONE:
            ending = b"%b\x1f%b" % (_attributes(*optional), rest)
        yield b"%b\x1f%b\x1f%d\x1f%b" % (identity, data, offset, ending)


def _attributes(subject: str | None, time: str | None, content_type: str | None, schema: str | None) -> bytes:
    as_given = None if time is None or DATABASE_TIME.fullmatch(time) else time
    return _joined(subject, time, as_given, content_type, schema)


def _joined(*texts: str | None) -> bytes:
    return DELIMITER.join([NULL if text is None else text.encode() for text in texts])


def copy_if_admitted(pgconn: PGconn, message: bytes, rows: bytes) -> PQGen[int]:
    """Send `message`, a query and a COPY; send `rows` if the query returns true. Return the number of stored rows.

    Raises psycopg.Error; nothing is inserted then, unless the connection was lost.
    """
    pgconn.send_query(message)
    admission = yield from generators.execute(pgconn)
    raise_failure(admission[-1])
    if admission[0].get_value(0, 0) == b"t":
        for begin in range(0, len(rows), CHUNK_BYTES):
            yield from generators.copy_to(pgconn, rows[begin : begin + CHUNK_BYTES])
    while pgconn.put_copy_end() == 0:
        yield WAIT_W
    while pgconn.flush():
        yield WAIT_W
    # Not `copy_end`: a server that is stopping may add a message to its answer.
    copied, *_ = yield from generators.fetch_many(pgconn)
    raise_failure(copied)
    return copied.command_tuples or 0
