"""The binary mode of CloudEvents over HTTP: the attributes are headers (`ce-id`, …), the body is the data.

A binary event is converted to a structured event, which is then parsed like any other.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Container, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from oncecast.http.problems import Problem

_PREFIX = b"ce-"
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w-]+)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")
_NOT_HEADERS = frozenset(("data", "data_base64", "datacontenttype"))


def is_binary(content_type: str, header_names: Container[bytes]) -> bool:
    """Return whether the headers carry an event's attributes; a structured content type takes precedence."""
    return b"ce-specversion" in header_names and not content_type.lower().startswith("application/cloudevents")


def to_structured(body: bytes, content_type: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the structured form of a binary event; raises Problem 400 or 422 for invalid headers or JSON."""
    members: dict[str, Any] = {}
    for header, value in headers:
        if not header.startswith(_PREFIX):
            continue
        name = header.removeprefix(_PREFIX).decode("latin-1")
        if name in members or name in _NOT_HEADERS:
            raise Problem(400, f"header {_shown(header)}: given twice, or not an attribute that may be a header")
        members[name] = _unescape(value.decode("latin-1"), header)
    if content_type:
        members["datacontenttype"] = content_type
    media_type = content_type.partition(";")[0].strip().lower()
    if body and (media_type.endswith("+json") or media_type in ("", "application/json", "text/json")):
        _check_json(body)
        members["data"] = msgspec.Raw(body)
    elif (text := _text(body, content_type)) is not None:
        members["data"] = text
    elif body:
        members["data_base64"] = b64encode(body).decode()
    return msgspec.json.encode(members)


def _text(body: bytes, content_type: str) -> str | None:
    """Return a UTF-8 text body, which is a JSON string in structured mode; None for any other body.

    Text with a NUL, which PostgreSQL's `jsonb` cannot store, is binary data.
    """
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if not body or not (media_type.startswith("text/") or media_type.endswith(("/xml", "+xml"))):
        return None
    charset = _CHARSET.search(parameters)
    if (charset and charset.group(1).lower() not in ("utf-8", "utf8", "us-ascii")) or b"\0" in body:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _unescape(value: str, header: bytes) -> str:
    """Decode a header's value as the HTTP binding says: unquote it, then decode percent-encoded UTF-8."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise Problem(400, f"header {_shown(header)}: not percent-encoded UTF-8") from None


def _shown(header: bytes) -> str:
    return repr(header[:80].decode("latin-1"))


def _check_json(body: bytes) -> None:
    """Check the body before it is embedded: `1,"id":"x"` must not pass as data."""
    try:
        msgspec.json.decode(body)
    except RecursionError:
        raise Problem(422, "the data: nested too deeply") from None
    except msgspec.ValidationError as error:
        raise Problem(422, f"the data: {error}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise Problem(400, f"the data is not JSON in UTF-8: {error}") from None
