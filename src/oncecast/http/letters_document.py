"""What `/api/dead-letters…` does, for the documents of both faces: a producer relays to a listener."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oncecast.http.openapi import (
    ANY,
    FLAG,
    NAME,
    TEXT,
    TIME,
    WHOLE,
    Operation,
    in_path,
    json_body,
    listing,
    maybe,
    operation,
    query,
    record,
    ref,
)

TAG = "Dead letters"
LIMIT = query("limit", "How many at most.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100})
AFTER = query("after", "The `next` of the page before.")
SOURCE = query("source", "The event's source; needed where several sources have its id.", NAME)
AWAY = {503: "PostgreSQL is away, or no listener can answer: ask again later."}

_LETTER = {
    "source": TEXT,
    "id": TEXT,
    "type": TEXT,
    "error": TEXT,
    "attempts": WHOLE,
    "listener": TEXT,
    "died_at": TIME,
    "mended": FLAG,
}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
SCHEMAS = {
    "Event": {
        "type": "object",
        "description": "A CloudEvents 1.0 event in its structured form.",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": NAME,
            "source": NAME,
            "type": NAME,
            "subject": maybe(NAME),
            "time": maybe(TIME),
            "datacontenttype": maybe(NAME),
            "dataschema": maybe(NAME),
            "data": ANY,
            "data_base64": {"type": ["string", "null"], "contentEncoding": "base64", "pattern": _BASE64},
        },
        "required": ["specversion", "id", "source", "type"],
        "not": {"required": ["data", "data_base64"]},
        "propertyNames": {"pattern": "^([a-z0-9]{1,64}|data_base64)$"},
        "additionalProperties": {
            "description": "Extension attributes.",
            "type": ["string", "boolean", "integer", "null"],
            "maxLength": 65_536,
            "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$",
            "minimum": -(2**31),
            "maximum": 2**31 - 1,
        },
    },
    "DeadLetter": record("An event that was given up on.", **_LETTER),
    "WholeDeadLetter": record(
        "A dead letter with its cause, the event as it was received, and its mended data.",
        **_LETTER,
        trace=TEXT,
        event=ref("Event"),
        mended_data=ANY,
    ),
    "Replays": record(
        results=listing(
            record(
                id=TEXT,
                source=maybe(TEXT),
                outcome={"enum": ["stored", "failed", "not_dead", "unknown"]},
                error=maybe(TEXT),
            )
        )
    ),
    "ReplayRequest": {
        "type": "object",
        "properties": {
            "events": listing(
                {
                    "type": "object",
                    "properties": {"id": TEXT, "source": maybe(TEXT)},
                    "required": ["id"],
                    "additionalProperties": False,
                },
                minItems=1,
                maxItems=100,
            )
        },
        "required": ["events"],
        "additionalProperties": False,
    },
}


def letters_paths(
    further: Mapping[str, Any] | None = None, problems: Mapping[int, str] | None = None
) -> dict[str, dict[str, Operation]]:
    """The paths; `further` is a parameter of each, `problems` are further ones of each."""
    also = [further] if further else []
    refusals = {400: "A parameter or the body cannot be read.", **AWAY, **(problems or {})}
    one = {**refusals, 404: "There is no such dead letter (any more).", 409: "Several sources have this id."}
    id_ = in_path("id", "The event's id.")
    filters = [
        query(name, about, NAME)
        for name, about in (
            ("type", "Only events of this type."),
            ("source", "Only events of this source."),
            ("id", "Only events with this id."),
            ("listener", "Only what died at this listener."),
            ("error", "Only those whose error holds this text."),
        )
    ]
    return {
        "/api/dead-letters": {
            "get": operation(
                "listDeadLetters",
                "List dead letters, newest first",
                record(dead_letters=listing(ref("DeadLetter")), next=maybe(TEXT)),
                tag=TAG,
                parameters=[LIMIT, AFTER, *filters, *also],
                problems=refusals,
                right="subscribe",
            )
        },
        "/api/dead-letters/replay": {
            "post": operation(
                "replayDeadLetters",
                "Process dead letters again",
                ref("Replays"),
                tag=TAG,
                about="The handlers run, and the row turns from `dead` to `stored` together with what they write."
                " Each is for itself, one after another. Twice asked is once done.",
                parameters=also,
                body=json_body(ref("ReplayRequest"), example={"events": [{"id": "evt_456"}]}),
                problems={
                    **refusals,
                    408: "The body did not come in time.",
                    413: "The body is too large.",
                    422: "The body is not as it should be.",
                },
                right="admin",
            )
        },
        "/api/dead-letters/{id}": {
            "get": operation(
                "getDeadLetter",
                "Look at one dead letter",
                ref("WholeDeadLetter"),
                tag=TAG,
                parameters=[id_, SOURCE, *also],
                problems=one,
                right="subscribe",
            ),
            "put": operation(
                "mendDeadLetter",
                "Mend its data",
                ref("WholeDeadLetter"),
                tag=TAG,
                about="Replays use the body instead of the event's data; the event as it was received is kept.",
                parameters=[id_, SOURCE, *also],
                body=json_body(ANY, "The mended data.", {"fails": False}),
                problems={
                    **one,
                    408: "The body did not come in time.",
                    413: "The body is too large.",
                    422: "PostgreSQL could not store this.",
                },
                right="admin",
            ),
        },
    }
