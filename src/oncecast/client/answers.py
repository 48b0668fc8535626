"""What a producer's answer to `POST /events` means: accepted, refused for good, or to be asked again.

Pure: status, headers and body in, a verdict out. Who asks again, and when, is the publisher's to decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from oncecast.core.event import Cursor

_AGAIN_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504, 507))
"""The producer, or a proxy before it, cannot take it now; anything else but 202 is for people."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The events are on the producer's disk; `receipts` are the undecoded JSON of their ids and cursors."""

    count: int
    receipts: msgspec.Raw

    def cursors(self) -> list[Cursor]:
        """The place of each. Raises ValueError or MsgspecError if the producer told none that makes sense."""
        cursors = [Cursor.parse(receipt.cursor) for receipt in _decode_receipts(self.receipts)]
        if len(cursors) != self.count:
            raise ValueError(f"{self.count} events, {len(cursors)} cursors")
        return cursors


@dataclass(frozen=True, slots=True)
class Refusal:
    """The producer, or a proxy before it, will not take these events as things stand. Nothing was accepted.

    `by_producer` is whether an Oncecast producer says so. `index` is the place of the event at fault among those
    sent, from 0, if the producer named it.
    """

    status: int
    reason: str
    by_producer: bool = False
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """Not now: ask again with the same ids, not before `wait_s` if the producer said so."""

    reason: str
    wait_s: float = 0.0


class _Receipt(msgspec.Struct):
    cursor: str


class _Acknowledgement(msgspec.Struct):
    accepted: int
    events: msgspec.Raw = msgspec.Raw(b"[]")


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str = ""
    status: Any = None
    type: Any = None


PROBLEM_TYPE = "application/problem+json"
"""See `http.problems`, which no client imports."""


_PLACE = re.compile(r"(?:the event|event (\d+)(?: of \d+)?): ")
"""How a producer's detail begins when one event is at fault; counted from 1."""

_decode_acknowledgement = msgspec.json.Decoder(_Acknowledgement).decode
_decode_receipts = msgspec.json.Decoder(list[_Receipt]).decode
_decode_problem = msgspec.json.Decoder(_Problem).decode


def read_answer(status: int, headers: Mapping[str, str], body: bytes, *, sent: int) -> Acknowledged | Refusal | Later:
    """What the answer to a request with `sent` events means; `headers` finds names in any case."""
    if status == 202:
        return _read_acknowledgement(body, sent)
    problem = _read_problem(body)
    reason = problem.detail or problem.title or f"HTTP {status}"
    if status in _AGAIN_STATUSES:
        return Later(reason, _seconds(headers.get("Retry-After")))
    if 200 <= status < 400:
        return Refusal(status, f"HTTP {status}: no Oncecast producer answers at this address")
    if not _is_producers(problem, status, headers.get("Content-Type", "")):
        return Refusal(status, reason)
    place = _PLACE.match(reason)
    if place is None:
        return Refusal(status, reason, by_producer=True)
    return Refusal(status, reason[place.end() :], by_producer=True, index=int(place[1] or 1) - 1)


def _is_producers(problem: _Problem, status: int, content_type: str) -> bool:
    """Whether it is as producers tell problems: of the status of its answer, with a detail, and of no type.

    A gateway that speaks RFC 9457, too, gives its problems types of its own.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == PROBLEM_TYPE and problem.status == status and bool(problem.detail) and not problem.type


def _read_acknowledgement(body: bytes, sent: int) -> Acknowledged | Refusal:
    try:
        acknowledgement = _decode_acknowledgement(body)
    except (msgspec.MsgspecError, RecursionError):
        return Refusal(202, "the acknowledgement cannot be read: is it a producer that answers?")
    if acknowledgement.accepted != sent:
        return Refusal(202, f"{sent} events were sent, {acknowledgement.accepted} acknowledged")
    return Acknowledged(sent, acknowledgement.events)


def _read_problem(body: bytes) -> _Problem:
    try:
        return _decode_problem(body)
    except (msgspec.MsgspecError, RecursionError):
        return _Problem()  # a proxy's page, say: the status has to do


def _seconds(retry_after: str | None) -> float:
    """The header's seconds; its other form, a date, would need the two clocks to agree and is left out."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return 0.0
    return float(retry_after[:9])
