"""Interpret a producer's answer to `POST /events`: accepted, refused for good, or to be retried.

Pure functions of status, headers and body. The publisher decides when to retry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from oncecast.core.event import Cursor

_AGAIN_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504, 507))
"""The producer, or a proxy before it, cannot accept events now. Any other status but 202 is a refusal."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The events are on the producer's disk; `receipts` are the undecoded JSON of their ids and cursors."""

    count: int
    receipts: msgspec.Raw

    def cursors(self) -> list[Cursor]:
        """Return the cursor of each event. Raises ValueError or MsgspecError if the answer has none."""
        cursors = [Cursor.parse(receipt.cursor) for receipt in _decode_receipts(self.receipts)]
        if len(cursors) != self.count:
            raise ValueError(f"{self.count} events, {len(cursors)} cursors")
        return cursors


@dataclass(frozen=True, slots=True)
class Refusal:
    """The producer, or a proxy before it, refuses these events, and a retry would not help. Nothing was accepted.

    `by_producer` says whether the answer comes from an Oncecast producer. `index` is the position of the invalid
    event, from 0, if the producer named it.
    """

    status: int
    reason: str
    by_producer: bool = False
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """The events may not be accepted yet: retry with the same ids after `wait_s`, if the producer gave a time."""

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
"""The problem JSON of `http.problems`, which clients do not import."""


_PLACE = re.compile(r"(?:the event|event (\d+)(?: of \d+)?): ")
"""The beginning of `detail` if one event is invalid; counted from 1."""

_decode_acknowledgement = msgspec.json.Decoder(_Acknowledgement).decode
_decode_receipts = msgspec.json.Decoder(list[_Receipt]).decode
_decode_problem = msgspec.json.Decoder(_Problem).decode


def read_answer(status: int, headers: Mapping[str, str], body: bytes, *, sent: int) -> Acknowledged | Refusal | Later:
    """Return what the answer to a request with `sent` events means; `headers` must ignore the case of names."""
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
    """Return whether a producer wrote the problem: its status is the answer's, and it has a detail and no type.

    A gateway that also uses RFC 9457 gives its problems types of its own.
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
        return _Problem()  # such as a proxy's error page: only the status counts


def _seconds(retry_after: str | None) -> float:
    """Return the header's seconds. Its other form, a date, is ignored: it would need synchronized clocks."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return 0.0
    return float(retry_after[:9])
