"""Split a request's body into parts of a few events, each decoded and as bytes.

A small body is one part. A large body is never decoded as a whole, which would block the event loop: a body of
nothing but `{}` would become millions of objects before they are counted.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import msgspec

from oncecast.http.problems import Problem
from oncecast.producer.cloudevents.bare import JSON

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

PART_BYTES = 256 * 1024
PART_EVENTS = 500
"""The size of a part: a few milliseconds of work."""
COMMAS_MAX = 1_000_000
"""The elements of an array with more commas are counted before it is decoded."""

_decode = msgspec.json.decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_SPACE = b" \t\r\n"
_SEPARATOR = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")

BodyPlace = Callable[[int], str]
Raw = bytes | msgspec.Raw


class BodyPart(NamedTuple):
    """Consecutive events of a body, undecoded."""

    text: bytes
    """The bytes that contain all of them."""
    raws: Sequence[Raw]
    first: int | None
    """The number of earlier events; None if the request is this one event."""
    place: BodyPlace
    """Returns the place of the part's n-th event, in words."""
    is_array: bool = False
    """Whether `text` is a JSON array; else each event is decoded by itself."""

    def values(self) -> Sequence[Any]:
        """Return the decoded events; raises Problem 400 or 422 with the place of an invalid one."""
        if self.is_array:
            with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
                values: list[Any] = _decode(self.text)
                return values
        return [decoded(raw, partial(self.place, index)) for index, raw in enumerate(self.raws)]

    def number(self, index: int) -> int | None:
        """Return the position of the part's n-th event in the request; None if the request is this one event."""
        return None if self.first is None else self.first + index


def split(body: bytes, media_type: str, *, event_max_bytes: int, max_events: int) -> Iterable[BodyPart | None]:
    """Yield the parts of `body`, or None after work without a part. Raises Problem 400, 413, 415 or 422."""
    if media_type in NDJSON:
        return _split_lines(body, event_max_bytes, max_events)
    if media_type not in (JSON, STRUCTURED, BATCHED):
        raise Problem(
            415,
            f"{media_type[:80]!r} is not taken; send content-type {JSON}, {NDJSON[0]}, {STRUCTURED} or {BATCHED}",
        )
    if not (content := body.strip(_SPACE)).startswith(b"["):
        return _single(content, media_type, event_max_bytes)
    if media_type == STRUCTURED:
        raise Problem(422, f"the body is an array; send that as {BATCHED}")
    return _split_array(content, event_max_bytes, max_events)


def _single(body: bytes, media_type: str, event_max_bytes: int) -> Iterable[BodyPart]:
    _check_size(body, "the event", event_max_bytes)
    if media_type == BATCHED:
        raise Problem(422, f"a batch must be a JSON array, not {kind_of(decoded(body, _the_body))}")
    return (BodyPart(body, (body,), None, _the_event),)


def _the_event(_index: int) -> str:
    return "the event"


def _the_body() -> str:
    return "the body"


def _split_array(body: bytes, event_max_bytes: int, max_events: int) -> Iterator[BodyPart | None]:
    if len(body) > COMMAS_MAX and body.count(b",") > COMMAS_MAX:
        yield from _count_elements(body.decode(errors="replace"), max_events)
    raws = _raws(body)
    if len(raws) > max_events:
        raise too_many(max_events)
    yield None
    begin = size_bytes = 0
    for index, raw in enumerate(raws):
        if len(raw) > event_max_bytes:
            _check_size(raw, f"event {index + 1}", event_max_bytes)
        size_bytes += len(raw)
        if size_bytes > PART_BYTES or index - begin >= PART_EVENTS:
            yield _part_of_array(raws[begin:index], begin)
            begin, size_bytes = index, len(raw)
    yield _part_of_array(raws[begin:], begin)


def _part_of_array(raws: Sequence[Raw], first: int) -> BodyPart:
    text = b"[" + b",".join(raws) + b"]"
    return BodyPart(text, raws, first, lambda index: f"event {first + index + 1}", is_array=True)


def _split_lines(body: bytes, event_max_bytes: int, max_events: int) -> Iterator[BodyPart]:
    if len(body) > 2 * max_events and body.count(b"\n") > 2 * max_events:  # blank lines would take time, too
        raise too_many(max_events)
    first = 0
    for numbers, raws in _lines(body):
        if first + len(raws) > max_events:
            raise too_many(max_events)

        def place(index: int, numbers: Sequence[int] = numbers) -> str:
            return f"line {numbers[index]}"

        for index, raw in enumerate(raws):
            if len(raw) > event_max_bytes:
                _check_size(raw, place(index), event_max_bytes)
        # Not as an array: that would also accept two values on one line, or one value on two lines.
        yield BodyPart(b"\n".join(raws), raws, first, place)
        first += len(raws)


def _lines(body: bytes) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield lists of lines that are not blank, and their numbers."""
    numbers: list[int] = []
    raws: list[bytes] = []
    begin = size_bytes = 0
    for number in count(1):
        end = body.find(b"\n", begin)
        line = body[begin : end if end >= 0 else None]
        if line and not line.isspace():
            numbers.append(number)
            raws.append(line)
            size_bytes += len(line)
        begin = end + 1
        if end < 0 or size_bytes > PART_BYTES or len(raws) >= PART_EVENTS:
            yield numbers, raws
            numbers, raws, size_bytes = [], [], 0
        if end < 0:
            return


def _count_elements(text: str, max_events: int) -> Iterator[None]:
    """Raise Problem 413 if an array has too many elements; other errors are found later."""
    scan = json.JSONDecoder().raw_decode
    at, found = 1, 0
    while True:
        at = _SEPARATOR.match(text, at).end()  # type: ignore[union-attr]
        begun = at
        while at - begun < PART_BYTES and found <= max_events:
            try:
                _, at = scan(text, at)
            except (ValueError, RecursionError):
                return
            found += 1
            at = _SEPARATOR.match(text, at).end()  # type: ignore[union-attr]
            if found % PART_EVENTS == 0:
                break
        if found > max_events:
            raise too_many(max_events)
        yield None


def _raws(body: bytes) -> list[msgspec.Raw]:
    try:
        raws: list[msgspec.Raw] = _decode_raws(body)
    except RecursionError:
        raise Problem(422, "the body: nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise Problem(400, f"the body is not JSON in UTF-8: {error}") from None
    return raws


def decoded(text: Raw, place: Callable[[], str]) -> Any:
    """Decode JSON; raises Problem 400 or 422 with its place."""
    try:
        return _decode(text)
    except RecursionError:
        raise Problem(422, f"{place()}: nested too deeply") from None
    except msgspec.ValidationError as error:  # valid JSON with a number that is out of range
        raise Problem(422, f"{place()}: {error}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise Problem(400, f"{place()} is not JSON in UTF-8: {error}") from None


def _check_size(raw: Raw, place: str, event_max_bytes: int) -> None:
    if len(raw) > event_max_bytes:
        raise Problem(413, f"{place}: {len(raw)} bytes; an event may have at most {event_max_bytes}")


def too_many(max_events: int) -> Problem:
    """Return the refusal of a request with too many events."""
    return Problem(413, f"a request may have at most {max_events} events (REQUEST_MAX_EVENTS); send them in several")


def kind_of(value: object) -> str:
    """Return the kind of a decoded value, in words."""
    kinds: Iterable[tuple[type, str]] = (
        (dict, "an object"),
        (list, "an array"),
        (str, "a text"),
        (bool, "a boolean"),
    )
    return next(
        (kind for class_, kind in kinds if isinstance(value, class_)), "null" if value is None else "a number"
    )
