"""Find valid JSON that PostgreSQL's `jsonb` cannot store, before the acknowledgement.

Decoding already refuses most of it (lone surrogates, numbers beyond a double's range, invalid UTF-8). The rest is
rare, so a whole body is checked first. All checks read the raw bytes: a decoded object has only the last of several
members with one name, but PostgreSQL reads all.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import msgspec

from oncecast.http.problems import Problem

DEPTH_MAX = 200
DECIMALS_MAX = 16_383
"""The limit of PostgreSQL's numeric type, which jsonb uses."""
_EXPONENT_MAX = 99_999
"""Only a zero can have a larger exponent; PostgreSQL accepts it up to about one billion."""

_NUMBER = re.compile(rb"-?\d+(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
# A literal at the beginning makes these searches fast.
_ODD_NUMBERS = tuple(
    (literal, re.compile(re.escape(literal) + rest))
    for literal, rest in ((b"e-", rb"\d{4}"), (b"E-", rb"\d{4}"), (b"0e", rb"\+?\d{6}"), (b"0E", rb"\+?\d{6}"))
)
_FRACTION_BYTES = 15_000  # may be too long with an exponent of three digits
_LONG_FRACTION = re.compile(rb"\d{%d}" % _FRACTION_BYTES)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""As signed bytes: 1 for an opening bracket, -1 for a closing one."""


def check_storable(body: bytes, raws: Sequence[bytes | msgspec.Raw], place: Callable[[int], str]) -> None:
    """Raise Problem 422 with the place of the event of `raws`, which are parts of `body`, that `jsonb` refuses."""
    event_bytes = max(map(len, raws), default=0)
    if event_bytes <= 2 * DEPTH_MAX and b"\\" not in body and not _has_odd_number(body):
        return  # too short to be nested too deeply, and nothing else can be wrong, even within strings
    if _obstacle(body, event_bytes=event_bytes):
        for index, raw in enumerate(raws):
            if obstacle := _obstacle(bytes(raw), event_bytes=len(raw)):
                raise Problem(422, f"{place(index)}: {obstacle}")


def _has_odd_number(text: bytes) -> bool:
    return any(literal in text and pattern.search(text) for literal, pattern in _ODD_NUMBERS)


def _obstacle(text: bytes, *, event_bytes: int) -> str | None:
    """Return why `jsonb` refuses one of the events in `text`, the longest of which has `event_bytes`, or None.

    An array of events is one level deeper than they are: the answer for the whole may be wrong, that for each is not.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"")  # now each backslash begins an escape
        if b"\\u0000" in text:
            return "contains the character \\u0000, which PostgreSQL cannot store"
        text = text.replace(b'\\"', b"")  # now each quote begins or ends a string
    outside_strings = b"".join(text.split(b'"')[::2])
    odd = _has_odd_number(outside_strings)
    odd = odd or (event_bytes > _FRACTION_BYTES and _LONG_FRACTION.search(outside_strings) is not None)
    if odd and not all(_numbers_fit(outside_strings)):
        return f"contains a number with more than {DECIMALS_MAX} decimals"
    steps = array("b", outside_strings.translate(_STEPS, _NO_BRACKETS))
    if len(steps) > 2 * DEPTH_MAX and max(accumulate(steps)) > DEPTH_MAX + 1:
        return f"nested deeper than {DEPTH_MAX}"
    return None


def _numbers_fit(text: bytes) -> Iterator[bool]:
    for match in _NUMBER.finditer(text):
        fraction, sign_and_digits = match.groups(b"")
        if len(sign_and_digits) > 4_000:  # more digits than `int` accepts
            yield False
        elif fraction or sign_and_digits:
            exponent = int(sign_and_digits or 0)
            yield exponent <= _EXPONENT_MAX and len(fraction) - exponent <= DECIMALS_MAX
