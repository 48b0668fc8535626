"""Where the attributes of a bare event are: in its body, by a JSON Pointer, or in a header of its request.

An attribute's place is written as a template: parts whose texts are joined. Headers are the same for all events of a
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
    """A place in the body (RFC 6901). One that is not needed may be missing: then its `prefix` is left out, too."""

    text: str
    keys: tuple[str, ...]
    is_needed: bool = True
    prefix: str = ""

    @classmethod
    def parse(cls, text: str, *, is_needed: bool = True, prefix: str = "") -> Self:
        """Read `/order/number`; raises ValueError that says what is wrong."""
        if not text.startswith("/"):
            raise ValueError("a JSON Pointer begins with a slash, as in /order/number")
        if _BAD_ESCAPE.search(text):
            raise ValueError("in a JSON Pointer ~ is written ~0, and / in a name ~1")
        keys = tuple(key.replace("~1", "/").replace("~0", "~") for key in text[1:].split("/"))
        return cls(text, keys, is_needed, prefix)

    def find(self, body: Any) -> str | None:
        """The text or whole number at the place, as text; None where nothing is.

        Raises ValueError, which says what is there, for anything else.
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
    """A header of the request, by its name."""

    name: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Raises ValueError for what no header can be called."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:40]!r} is not the name of a header")
        return cls(name)

    def find(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Its value; None where it is missing or empty."""
        return headers.get(self.name.lower().encode(), b"").decode("latin-1").strip() or None


Template = tuple[str | Pointer, ...]
Unresolved = tuple[str | Pointer | Header, ...]


def resolve(template: Unresolved, headers: Mapping[bytes, bytes]) -> Template | None:
    """The template with the headers' values in it; None where one of them is missing."""
    parts: list[str | Pointer] = []
    for part in template:
        text = part.find(headers) if isinstance(part, Header) else part
        if text is None:
            return None
        parts.append(text)
    return tuple(parts)


def fill(template: Template, body: Any, name: str, place: str) -> str | None:
    """The attribute `name` of the event `body`, which is at `place`; None where nothing is found of it.

    Raises Problem 422 where a pointer leads to what is no text, or a needed one to nothing.
    """
    texts: list[str] = []
    for part in template:
        if isinstance(part, str):
            texts.append(part)
            continue
        try:
            text = part.find(body)
        except ValueError as error:
            raise Problem(422, f"{place}: {error}; {_a(name)} is a text or a whole number") from None
        if text or (text == "" and part.is_needed):
            texts.append(part.prefix + text)
        elif part.is_needed:
            raise Problem(422, f"{place}: there is no {part.text[:80]!r}, where its {name} should be")
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
