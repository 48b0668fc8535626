"""Check events of the usual form together, which is faster than one by one. Nearly all events have it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from oncecast.core.event import IDENTITY_MAX_BYTES
from oncecast.producer.cloudevents.attributes import is_reserved, is_usual_time
from oncecast.producer.cloudevents.splitting import BodyPart

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=IDENTITY_MAX_BYTES // 4)]
"""No character has more than four bytes, so this fits whatever they are."""


class _Usual(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A CloudEvent with short attributes, without extensions."""

    specversion: Literal["1.0"]
    id: _Text
    source: _Text
    type: _Text
    data: Any = None
    subject: _Text | None = None
    time: str | None = None
    datacontenttype: _Text | None = None
    dataschema: _Text | None = None


_decode_array = msgspec.json.Decoder(list[_Usual]).decode
_decode_one = msgspec.json.Decoder(_Usual).decode


def usual_identities(part: BodyPart) -> list[tuple[str, str]]:
    """Return `(source, id)` of each event of `part` if all are valid and have the usual form, else nothing."""
    try:
        events = _decode_array(part.text) if part.is_array else [_decode_one(raw) for raw in part.raws]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
    others = {(e.source, e.type, e.subject, e.datacontenttype, e.dataschema) for e in events}
    texts = [event.id for event in events] + [text for each in others for text in each if text is not None]
    times = {event.time for event in events if event.time is not None}
    if (
        not "".join(texts).isprintable()
        or any(is_reserved(source, type_) for source, type_, *_ in others)
        or not all(map(is_usual_time, times))
    ):
        return []
    return [(event.source, event.id) for event in events]
