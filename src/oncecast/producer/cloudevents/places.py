"""The places of a bare event's attributes: a JSON Pointer into its body, or a header of its request.

A template is a list of parts whose texts are joined. Headers are the same for all events of a
request, so `resolve` reads them once; `fill` reads the pointers, for each event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from oncecast.http.problems import Problem

_BAD_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_MISSING = object()


class Pointer(NamedTuple):
    """A JSON Pointer into the body (RFC 6901). An optional one may be missing: then its `prefix` is omitted, too."""

    text: str
    keys: tuple[str, ...]
    is_needed: bool = True
    prefix: str = ""

    @classmethod
    def parse(cls, text: str, *, is_needed: bool = True, prefix: str = "") -> Self:
        """Parse `/order/number`; raises ValueError."""
        if not text.startswith("/"):
            raise ValueError("a JSON Pointer must begin with a slash, as in /order/number")
        if _BAD_ESCAPE.search(text):
            raise ValueError("in a JSON Pointer ~ is written ~0, and / in a name ~1")
        keys = tuple(key.replace("~1", "/").replace("~0", "~") for key in text[1:].split("/"))
        return cls(text, keys, is_needed, prefix)

    def find(self, body: Any) -> str | None:
        """Return the string or integer at the place, as text; None if it is missing.

        Raises ValueError for any other value.
        """
        value = body
        for key in self.keys:
            value = _member(value, key)
        if value is _MISSING or value is None:
            return None
        if isinstance(value, str):
            return value
        if type(value) is int:
            return str(value)
        raise ValueError(f"{self.text[:80]!r} is {_kind(value)}")


class Header(NamedTuple):
    """A header of the request."""

    name: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Check a header's name; raises ValueError."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:40]!r} is not the name of a header")
        return cls(name)

    def find(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return the header's value; None if it is missing or empty."""
        return headers.get(self.name.lower().encode(), b"").decode("latin-1").strip() or None


Template = tuple[str | Pointer, ...]
Unresolved = tuple[str | Pointer | Header, ...]


def resolve(template: Unresolved, headers: Mapping[bytes, bytes]) -> Template | None:
    """Return the template with the headers' values; None if a header is missing."""
    parts: list[str | Pointer] = []
    for part in template:
        text = part.find(headers) if isinstance(part, Header) else part
        if text is None:
            return None
        parts.append(text)
    return tuple(parts)


def fill(template: Template, body: Any, name: str, place: str) -> str | None:
    """Return the attribute `name` of the event `body` at `place`; None if no part is found.

    Raises Problem 422 if a value is not a string or integer, or a required one is missing.
    """
    texts: list[str] = []
    for part in template:
        if isinstance(part, str):
            texts.append(part)
            continue
        try:
            text = part.find(body)
        except ValueError as error:
            raise Problem(422, f"{place}: {error}; {_a(name)} must be a string or an integer") from None
        if text or (text == "" and part.is_needed):
            texts.append(part.prefix + text)
        elif part.is_needed:
            raise Problem(422, f"{place}: there is no {part.text[:80]!r}, the place of its {name}")
    return "".join(texts) if texts else None


def _member(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key, _MISSING)
    if isinstance(value, list) and _INDEX.fullmatch(key) and int(key) < len(value):
        return value[int(key)]
    return _MISSING


def _a(name: str) -> str:
    return f"an {name}" if name == "id" else f"a {name}"


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "an array", bool: "a boolean", float: "a number with a fraction"}
    return kinds.get(type(value), "something else")
