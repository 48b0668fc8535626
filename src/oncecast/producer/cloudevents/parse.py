"""Parse requests: a body is either a list of valid events or refused as a whole, with the invalid place.

Pure functions of the bytes. A structured event is kept byte for byte. Events that PostgreSQL's `jsonb` cannot store
are refused here, before the acknowledgement.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from oncecast.http.problems import Problem
from oncecast.producer.cloudevents.attributes import check_members, check_structured, check_text
from oncecast.producer.cloudevents.bare import JSON, Bare, wrap
from oncecast.producer.cloudevents.jsonb import check_storable
from oncecast.producer.cloudevents.splitting import BATCHED, NDJSON, STRUCTURED, BodyPart, kind_of, split
from oncecast.producer.cloudevents.usual import usual_identities

__all__ = ["BATCHED", "JSON", "NDJSON", "STRUCTURED", "Bare", "Publication", "read_in_slices", "read_publication"]

MAX_EVENTS = 100_000
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w-]+)", re.IGNORECASE)


class Publication(NamedTuple):
    """Valid events as structured JSON, and the identity of each."""

    events: list[bytes]
    identities: list[tuple[str, str]]
    """`(source, id)` of each event."""


def read_publication(
    body: bytes, content_type: str, bare: Bare, *, event_max_bytes: int, max_events: int = MAX_EVENTS
) -> Publication:
    """Parse a request's `body`; raises Problem 400, 413, 415 or 422 with the invalid place."""
    publication = Publication([], [])
    media_type = _begin(body, content_type, bare)
    for part in split(body, media_type, event_max_bytes=event_max_bytes, max_events=max_events):
        if part is not None:
            _read_part(publication, part, bare, media_type)
    return publication


def read_in_slices(
    body: bytes, content_type: str, bare: Bare, *, event_max_bytes: int, max_events: int
) -> Generator[None, None, Publication]:
    """As `read_publication`, but yields every few milliseconds, so that other tasks can run."""
    publication = Publication([], [])
    media_type = _begin(body, content_type, bare)
    parts = iter(split(body, media_type, event_max_bytes=event_max_bytes, max_events=max_events))
    go_on = True
    while go_on:
        with _no_collection():
            go_on = _read_next_part(publication, parts, bare, media_type)
        yield
    return publication


def _begin(body: bytes, content_type: str, bare: Bare) -> str:
    """Return the media type of a body; raises Problem for a body that cannot be parsed."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise Problem(400, "the body begins with a byte order mark; send UTF-8 without one")
    _check_bare(bare)
    return _media_type(content_type)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector, which would scan a large body's values repeatedly."""
    paused = gc.isenabled()
    if paused:
        gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def _read_next_part(publication: Publication, parts: Iterator[BodyPart | None], bare: Bare, media_type: str) -> bool:
    """Add the events of the next part; return False if there is none."""
    try:
        part = next(parts)
    except StopIteration:
        return False
    if part is not None:
        _read_part(publication, part, bare, media_type)
    return True


def _read_part(publication: Publication, part: BodyPart, bare: Bare, media_type: str) -> None:
    """Add the events of `part` to `publication`."""
    place = part.place
    identities = usual_identities(part)
    values = () if identities else part.values()
    check_storable(part.text, part.raws, place)
    if identities:
        publication.events.extend(map(bytes, part.raws))
        publication.identities.extend(identities)
        return
    for index, (value, raw) in enumerate(zip(values, part.raws, strict=True)):
        if type(value) is not dict:
            raise Problem(422, f"{place(index)}: an event is a JSON object, not {kind_of(value)}")
        if "specversion" in value:
            check_structured(value, index, place)
            check_members(raw, index, place)
            event, identity = bytes(raw), (value["source"], value["id"])
        elif media_type in (STRUCTURED, BATCHED):
            raise Problem(422, f'{place(index)}: "specversion" is missing; send bare events as {JSON}')
        else:
            event, identity = wrap(value, raw, bare, part.number(index), place(index))
        publication.events.append(event)
        publication.identities.append(identity)


def _media_type(content_type: str) -> str:
    media_type, _, parameters = content_type.partition(";")
    charset = _CHARSET.search(parameters)
    if charset and charset.group(1).lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(415, f"charset {charset.group(1)} is not accepted; send UTF-8")
    return media_type.strip().lower() or JSON


def _check_bare(bare: Bare) -> None:
    for name in ("source", "type", "subject", "idempotency_key"):
        if (text := getattr(bare, name)) is not None:
            check_text(text, f"the request's {name.replace('_', ' ')}")
