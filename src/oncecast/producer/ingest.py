"""Ingest: what came in is either a list of valid events or refused as a whole, with the place that is wrong.

Pure functions of the bytes. A structured event is kept byte for byte as it came; what PostgreSQL's `jsonb`
could not hold is refused here, before anything is acknowledged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from oncecast.http.problems import Problem
from oncecast.producer.attributes import check_members, check_structured, check_text
from oncecast.producer.bare import JSON, Bare, wrap
from oncecast.producer.jsonb import check_storable

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

_decode = msgspec.json.decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w-]+)", re.IGNORECASE)


class Publication(NamedTuple):
    """Valid events as structured JSON, and the identity of each."""

    events: list[bytes]
    identities: list[tuple[str, str]]
    """`(source, id)`."""


def read_publication(body: bytes, content_type: str, bare: Bare, *, event_max_bytes: int) -> Publication:
    """The events of a request's `body`; raises Problem 400, 413, 415 or 422 naming what is wrong and where."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise Problem(400, "the body begins with a byte order mark; send UTF-8 without one")
    _check_bare(bare)
    media_type = _media_type(content_type)
    only_structured = media_type in (STRUCTURED, BATCHED)
    values, raws, place = _split(body, media_type)
    is_batch = media_type in NDJSON or body.lstrip().startswith(b"[")
    if not values:  # a batch of zero events is a valid batch: CloudEvents' HTTP binding says so
        return Publication([], [])
    check_storable(body, raws, place)
    publication = Publication([], [])
    for index, (value, raw) in enumerate(zip(values, raws, strict=True)):
        if len(raw) > event_max_bytes:
            raise Problem(413, f"{place(index)}: {len(raw)} bytes; an event may have {event_max_bytes}")
        if type(value) is not dict:
            raise Problem(422, f"{place(index)}: an event is a JSON object, not {_kind(value)}")
        if "specversion" in value:
            check_structured(value, index, place)
            check_members(raw, index, place)
            event, identity = bytes(raw), (value["source"], value["id"])
        elif only_structured:
            raise Problem(422, f'{place(index)}: "specversion" is missing; send bare events as {JSON}')
        else:
            event, identity = wrap(value, raw, bare, index if is_batch else None, place(index))
        publication.events.append(event)
        publication.identities.append(identity)
    return publication


def _media_type(content_type: str) -> str:
    media_type, _, parameters = content_type.partition(";")
    charset = _CHARSET.search(parameters)
    if charset and charset.group(1).lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(415, f"charset {charset.group(1)} is not taken; send UTF-8")
    return media_type.strip().lower() or JSON


Place = Callable[[int], str]


def _split(body: bytes, media_type: str) -> tuple[list[Any], list[bytes | msgspec.Raw], Place]:
    """Each event decoded, each as its bytes, and the words for where the n-th one stands."""
    if media_type in NDJSON:
        return _split_lines(body)
    if media_type not in (JSON, STRUCTURED, BATCHED):
        raise Problem(
            415,
            f"{media_type[:80]!r} is not taken; send content-type {JSON}, {NDJSON[0]}, {STRUCTURED} or {BATCHED}",
        )
    value = _decoded(body, "the body")
    if isinstance(value, list):
        if media_type == STRUCTURED:
            raise Problem(422, f"the body is an array; send that as {BATCHED}")
        return value, list(_decode_raws(body)), lambda index: f"event {index + 1}"
    if media_type == BATCHED:
        raise Problem(422, f"a batch is a JSON array, not {_kind(value)}")
    return [value], [_decode_raw(body)], lambda _index: "the event"


def _split_lines(body: bytes) -> tuple[list[Any], list[bytes | msgspec.Raw], Place]:
    numbered = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line and not line.isspace()]
    # Line by line: a decoder of lines would also take two values of one line, or one value of two.
    values = [_decoded(line, f"line {number}") for number, line in numbered]
    return values, [line for _, line in numbered], lambda index: f"line {numbered[index][0]}"


def _decoded(text: bytes, place: str) -> Any:
    try:
        return _decode(text)
    except RecursionError:
        raise Problem(422, f"{place}: nested too deeply") from None
    except msgspec.ValidationError as error:  # valid JSON that no computer's numbers can hold
        raise Problem(422, f"{place}: {error}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise Problem(400, f"{place} is not JSON in UTF-8: {error}") from None


def _check_bare(bare: Bare) -> None:
    for name in ("source", "type", "subject", "idempotency_key"):
        if (text := getattr(bare, name)) is not None:
            check_text(text, f"the request's {name.replace('_', ' ')}")


def _kind(value: object) -> str:
    kinds: Iterable[tuple[type, str]] = (
        (dict, "an object"),
        (list, "an array"),
        (str, "a text"),
        (bool, "a boolean"),
    )
    return next(
        (kind for class_, kind in kinds if isinstance(value, class_)), "null" if value is None else "a number"
    )
