"""Find valid JSON that PostgreSQL's `jsonb` cannot store, before the acknowledgement.

Decoding already refuses most of it (lone surrogates, numbers beyond a double's range, invalid UTF-8). The rest is
rare, so each check begins with a cheap search. All checks read the raw bytes: a decoded object has only the last of
several members with one name, but PostgreSQL reads all.
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

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_STRINGS = re.compile(_STRING, re.DOTALL)
_STRING_OR_NUMBER = re.compile(_STRING + rb"|-?\d+(?:\.(\d+))?(?:[eE]([+-]?\d+))?", re.DOTALL)
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# A literal at the beginning makes these searches fast.
_ODD_NUMBERS = tuple(
    (literal, re.compile(re.escape(literal) + rest))
    for literal, rest in ((b"e-", rb"\d{4}"), (b"E-", rb"\d{4}"), (b"0e", rb"\+?\d{6}"), (b"0E", rb"\+?\d{6}"))
)
_FRACTION_BYTES = 15_000  # may be too long with an exponent of three digits
_LONG_FRACTION = re.compile(rb"\d{%d}" % _FRACTION_BYTES)
_ONLY_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""As signed bytes: 1 for an opening bracket, -1 for a closing one."""

Raws = Sequence[bytes | msgspec.Raw]


def check_storable(body: bytes, raws: Raws, place: Callable[[int], str]) -> None:
    """Raise Problem 422 with the place of the event of `raws`, which are parts of `body`, that `jsonb` refuses."""
    if b"\\u0000" in body:
        for index, raw in enumerate(raws):
            if _NUL.search(raw):
                raise Problem(422, f"{place(index)}: contains the character \\u0000, which PostgreSQL cannot store")
    odd_numbers = [pattern for literal, pattern in _ODD_NUMBERS if literal in body and pattern.search(body)]
    if len(body) > _FRACTION_BYTES and any(len(raw) > _FRACTION_BYTES for raw in raws):
        odd_numbers.append(_LONG_FRACTION)
    if odd_numbers:
        for index, raw in enumerate(raws):
            if any(pattern.search(raw) for pattern in odd_numbers) and not all(_numbers_fit(bytes(raw))):
                raise Problem(422, f"{place(index)}: contains a number with more than {DECIMALS_MAX} decimals")
    if len(body) > 2 * DEPTH_MAX:
        for index, raw in enumerate(raws):
            if len(raw) > 2 * DEPTH_MAX and _is_deep(bytes(raw)):
                raise Problem(422, f"{place(index)}: nested deeper than {DEPTH_MAX}")


def _is_deep(raw: bytes) -> bool:
    """Return whether the event's members are nested deeper than DEPTH_MAX."""
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_MAX:
        return False
    steps = array("b", _STRINGS.sub(b"", raw).translate(_STEPS, _ONLY_BRACKETS))
    return max(accumulate(steps)) > DEPTH_MAX + 1


def _numbers_fit(raw: bytes) -> Iterator[bool]:
    for match in _STRING_OR_NUMBER.finditer(raw):
        fraction, sign_and_digits = match.groups(b"")
        if len(sign_and_digits) > 4_000:  # more digits than `int` accepts
            yield False
        elif fraction or sign_and_digits:
            exponent = int(sign_and_digits or 0)
            yield exponent <= _EXPONENT_MAX and len(fraction) - exponent <= DECIMALS_MAX
