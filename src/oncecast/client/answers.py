"""What a producer's answer to `POST /events` means: accepted, refused for good, or to be asked again.

Pure: status, headers and body in, a verdict out. Who asks again, and when, is the publisher's to decide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from oncecast.core.event import Cursor

_AGAIN_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504, 507))
"""The producer, or a proxy before it, cannot take it now; anything else but 202 is for people."""


@dataclass(frozen=True, slots=True)
class Accepted:
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
    """The producer will not take these events, however often it is asked. Nothing was accepted.

    `index` is the place of the event at fault among those sent, from 0, if the producer named it. `is_producers`
    tells its own refusal from that of a proxy before it, which says nothing about events.
    """

    status: int
    reason: str
    index: int | None = None
    is_producers: bool = False


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
    status: int = 0


_PLACE = re.compile(r"(?:the event|event (\d+)(?: of \d+)?): ")
"""How a producer's detail begins when one event is at fault; counted from 1."""

_decode_acknowledgement = msgspec.json.Decoder(_Acknowledgement).decode
_decode_receipts = msgspec.json.Decoder(list[_Receipt]).decode
_decode_problem = msgspec.json.Decoder(_Problem).decode


def read_answer(status: int, retry_after: str | None, body: bytes, *, sent: int) -> Accepted | Refusal | Later:
    """What the answer to a request with `sent` events means; `retry_after` is that header's text."""
    if status == 202:
        return _read_acknowledgement(body, sent)
    problem = _read_problem(body)
    reason = problem.detail or problem.title or f"HTTP {status}"
    if status in _AGAIN_STATUSES:
        return Later(reason, _seconds(retry_after))
    if 200 <= status < 400:
        return Refusal(status, f"HTTP {status}: no Oncecast producer answers at this address")
    is_producers = problem.status == status and bool(problem.detail)
    place = _PLACE.match(reason) if is_producers else None
    if place is None:
        return Refusal(status, reason, is_producers=is_producers)
    return Refusal(status, reason[place.end() :], int(place[1] or 1) - 1, is_producers)


def _read_acknowledgement(body: bytes, sent: int) -> Accepted | Refusal:
    try:
        acknowledgement = _decode_acknowledgement(body)
    except (msgspec.MsgspecError, RecursionError):
        return Refusal(202, "the acknowledgement cannot be read: is it a producer that answers?")
    if acknowledgement.accepted != sent:
        return Refusal(202, f"{sent} events were sent, {acknowledgement.accepted} acknowledged")
    return Accepted(sent, acknowledgement.events)


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
