"""What PostgreSQL's `jsonb` cannot hold although it is JSON: found before the acknowledgement, not after.

Decoding has refused most of it (lone surrogates, numbers beyond a double's range, broken UTF-8). What is left
is rare, so each check first asks the raw bytes, cheaply, whether a closer look is worth it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from oncecast.http.problems import Problem

DEPTH_MAX = 200
DECIMALS_MAX = 16_383
"""Of PostgreSQL's numeric, which jsonb's numbers are."""

_STRING_OR_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.(\d+))?(?:[eE]([+-]?\d+))?', re.DOTALL)
_SMALL_EXPONENT = re.compile(rb"\d[eE]-\d{4}")
_LONG_FRACTION = re.compile(rb"\d{16000}")


def check_storable(
    body: bytes, values: Sequence[Any], raws: Sequence[bytes | msgspec.Raw], place: Callable[[int], str]
) -> None:
    """Raise Problem 422 naming the event that `jsonb` would refuse."""
    if b"\\u0000" in body:
        for index, value in enumerate(values):
            if any("\0" in text for text in _texts(value)):
                raise Problem(422, f"{place(index)}: holds the character \\u0000, which PostgreSQL cannot store")
    has_exponent = b"e-" in body or b"E-" in body
    if (has_exponent and _SMALL_EXPONENT.search(body)) or (
        any(len(raw) > DECIMALS_MAX for raw in raws) and _LONG_FRACTION.search(body)
    ):
        for index, raw in enumerate(raws):
            if any(decimals > DECIMALS_MAX for decimals in _decimals(bytes(raw))):
                raise Problem(422, f"{place(index)}: holds a number with more than {DECIMALS_MAX} decimals")
    if len(body) > 2 * DEPTH_MAX:
        for index, raw in enumerate(raws):
            if len(raw) > 2 * DEPTH_MAX and _is_deep(bytes(raw), values[index]):
                raise Problem(422, f"{place(index)}: nested deeper than {DEPTH_MAX}")


def _is_deep(raw: bytes, value: Any) -> bool:
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_MAX:
        return False
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return False
    return True


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (inner for inner in value.values() if isinstance(inner, dict | list))
    else:
        yield from (inner for inner in value if isinstance(inner, dict | list))


def _texts(value: Any) -> Iterator[str]:
    """All texts in `value`, keys too; without recursion, since the depth is a stranger's choice."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _decimals(raw: bytes) -> Iterator[int]:
    for match in _STRING_OR_NUMBER.finditer(raw):
        fraction, exponent = match.groups()
        if fraction or exponent:
            yield len(fraction or b"") - max(-(10**6), min(10**6, int((exponent or b"0")[:8])))
