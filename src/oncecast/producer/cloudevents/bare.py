"""Bare events: JSON objects that become the data of CloudEvents, with attributes from the request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from oncecast.core.event import DEFAULT_SOURCE
from oncecast.event import new_id
from oncecast.http.problems import Problem
from oncecast.producer.cloudevents.attributes import check_text, check_time, is_reserved, reserved
from oncecast.producer.cloudevents.places import Header, Pointer, Template, Unresolved, fill, resolve
from oncecast.producer.cloudevents.presets import PRESETS

JSON = "application/json"
_ATTRIBUTES = ("source", "type", "subject", "time")
_PARAMETERS = ("id", "preset", *_ATTRIBUTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """Where a request's bare events get their attributes: from the request, or the defaults."""

    source: str = DEFAULT_SOURCE
    type: str | None = None
    subject: str | None = None
    idempotency_key: str | None = None
    ids: tuple[Template, ...] | None = None
    """The parts of the id; if empty, each event gets a random id. None if the request does not say."""
    places: Mapping[str, Template] = field(default_factory=dict)
    """The places of other attributes by name; they precede the values given here."""


def bare_of(query_string: bytes, headers: Mapping[bytes, bytes], default: Bare) -> Bare:
    """Return the request's places for bare events; raises Problem 400 or 422."""
    key = headers.get(b"idempotency-key")
    if not query_string and key is None:
        return default
    words = _words(query_string)
    bare = replace(default, idempotency_key=None if key is None else key.decode("latin-1"))
    if "preset" in words:
        bare = _with_preset(bare, words["preset"][0], headers)
    if "id" in words:
        bare = replace(bare, ids=_ids(words["id"], headers))
    places = dict(bare.places)
    for name in _ATTRIBUTES:
        if name in words:
            (word,) = words[name]
            places[name] = _template(name, word, headers)
    return replace(bare, places=places)


def wrap(
    value: dict[str, Any], raw: bytes | msgspec.Raw, bare: Bare, index: int | None, place: str
) -> tuple[bytes, tuple[str, str]]:
    """Return a bare event as the data of a structured event, and its identity.

    `index` is its position in the request; None if the request is this one event.
    """
    id_ = _id_of(value, bare, index, place)
    source, type_, subject, time = bare.source, bare.type or value.get("type"), bare.subject, None
    if bare.places:
        found = {name: fill(template, value, name, place) for name, template in bare.places.items()}
        for name, text in found.items():
            if text is not None and name != "time":
                check_text(text, f'{place}: "{name}"')
        source, type_ = found.get("source") or source, found.get("type") or type_
        subject, time = found.get("subject") or subject, found.get("time")
    if isinstance(type_, str):
        check_text(type_, f'{place}: "type"')
    if is_reserved(source, type_):
        raise reserved(place)
    members: dict[str, Any] = {
        "specversion": "1.0",
        "id": id_,
        "source": source,
        "type": type_ if isinstance(type_, str) else "event",
    }
    if subject is not None:
        members["subject"] = subject
    if time is not None:
        check_time(time, f'{place}: "time"')
        members["time"] = time
    members["datacontenttype"] = JSON
    members["data"] = msgspec.Raw(raw)
    return msgspec.json.encode(members), (source, id_)


def _id_of(value: dict[str, Any], bare: Bare, index: int | None, place: str) -> str:
    """Return the id from the request's place, else its Idempotency-Key, else the member `id`, else a random id."""
    if bare.ids is not None:
        return _placed_id(value, bare, index, place) if bare.ids else new_id()
    if bare.idempotency_key is not None:
        return _derived(bare.idempotency_key, index)
    given = value.get("id")
    if isinstance(given, str) or type(given) is int:
        id_ = str(given)
        check_text(id_, f'{place}: "id"')
        return id_
    return new_id()


def _placed_id(value: dict[str, Any], bare: Bare, index: int | None, place: str) -> str:
    templates = bare.ids or ()
    try:
        parts = [fill(template, value, "id", place) or "" for template in templates]
    except Problem:
        if bare.idempotency_key is None:
            raise
        return _derived(bare.idempotency_key, index)
    # Escaped as in a JSON Pointer, so that different parts never give the same id.
    id_ = parts[0] if len(parts) == 1 else "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)
    if index is not None and all(isinstance(part, str) for template in templates for part in template):
        return _derived(id_, index)  # a header belongs to the request, which has several events
    check_text(id_, f'{place}: "id"')
    return id_


def _derived(key: str, index: int | None) -> str:
    return "evt_" + hashlib.sha256(f"{key}\0{index or 0}".encode()).hexdigest()[:32]


def _words(query_string: bytes) -> dict[str, list[str]]:
    """Return the query's values by name; raises Problem 400 for an attribute that is given twice."""
    words: dict[str, list[str]] = {}
    for name, word in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name in _PARAMETERS:
            words.setdefault(name, []).append(word)
    for name, given in words.items():
        if name != "id" and len(given) > 1:
            raise Problem(400, f"{name} is given twice")
    return words


def _with_preset(bare: Bare, name: str, headers: Mapping[bytes, bytes]) -> Bare:
    preset = PRESETS.get(name)
    if preset is None:
        raise Problem(400, f"unknown preset {name[:40]!r}; known presets: {', '.join(sorted(PRESETS))}")
    ids = next((found for one in preset.ids if (found := resolve(one, headers)) is not None), None)
    if ids is None:
        wanted = " or ".join(part.name for one in preset.ids for part in one[:1] if isinstance(part, Header))
        raise Problem(422, f"the request has no header {wanted}, where the preset {name} has the event's id")
    return replace(bare, ids=(ids,), places={a: _resolved(t, headers) for a, t in preset.attributes.items()})


def _ids(words: list[str], headers: Mapping[bytes, bytes]) -> tuple[Template, ...]:
    if words == ["new"]:
        return ()
    for word in words:
        if not word.startswith(("/", "body:", "header:")):
            raise Problem(
                400,
                f"id: {word[:80]!r} is not a place: use a JSON Pointer into the body such as /order/number,"
                " header:NAME, or new. Give the id itself in the header Idempotency-Key, or in a CloudEvent",
            )
    return tuple(_template("id", f"body:{word}" if word.startswith("/") else word, headers) for word in words)


def _template(name: str, word: str, headers: Mapping[bytes, bytes]) -> Template:
    """Parse `body:POINTER`, `header:NAME`, or the attribute itself; raises Problem 400 or 422."""
    kind, _, rest = word.partition(":")
    try:
        if kind == "header":
            return _resolved((Header.parse(rest),), headers)
        if kind == "body":
            return (Pointer.parse(rest),)
    except ValueError as error:
        raise Problem(400, f"{name}: {word[:80]!r}: {error}") from None
    if name != "time":
        check_text(word, f"the request's {name}")
    return (word,)


def _resolved(template: Unresolved, headers: Mapping[bytes, bytes]) -> Template:
    found = resolve(template, headers)
    if found is None:
        names = ", ".join(part.name for part in template if isinstance(part, Header))
        raise Problem(422, f"the request has no header {names}")
    return found
