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

_AGE = r"[0-9]{1,5}(ms|s|m|h|d)"
_RFC3339 = (
    r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])"
)
MOMENT = {"type": "string", "pattern": f"^({_AGE}|{_RFC3339})$"}
CAUSE = {"type": "string", "pattern": "^[0-9a-f]{10}$"}
_FILTERS = {
    "type": (NAME, "Only events of this type; `order.*` for all types that begin so."),
    "source": (NAME, "Only events of this source."),
    "error": (NAME, "Only those whose error holds this text; capitals do not count."),
    "cause": (CAUSE, "Only those of this cause, as `/api/dead-letter-causes` names it."),
    "listener": (NAME, "Only what died at this listener."),
    "since": (MOMENT, "Only what died at or after this time (RFC 3339), or since this age: `2h`."),
    "until": (MOMENT, "Only what died before this time, or is older than this age."),
}

_LETTER = {
    "source": TEXT,
    "id": TEXT,
    "type": TEXT,
    "error": TEXT,
    "cause": CAUSE,
    "attempts": WHOLE,
    "listener": TEXT,
    "died_at": TIME,
    "mended": FLAG,
    "discarded_at": maybe(TIME),
}
_NAMED = {
    "type": "object",
    "properties": {"id": TEXT, "source": maybe(TEXT)},
    "required": ["id"],
    "additionalProperties": False,
}


def _chosen(maximum: int, default: int) -> dict[str, Any]:
    """The body that says which letters an operation is about."""
    limit = {"type": ["integer", "null"], "minimum": 1, "maximum": maximum, "description": f"{default} unless told."}
    return {
        "description": "Either letters that are named, or the next `limit` of those that `select` chooses: newest"
        " first, behind `after`, the `next` of the answer before. A selection without anything is all of them.",
        "oneOf": [
            {
                "type": "object",
                "properties": {"events": listing(_NAMED, minItems=1, maxItems=maximum)},
                "required": ["events"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"select": ref("Selection"), "limit": limit, "after": maybe(TEXT)},
                "required": ["select"],
                "additionalProperties": False,
            },
        ],
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
    "Selection": {
        "type": "object",
        "description": "Dead letters of which all that is given holds.",
        "properties": {
            "ids": listing(NAME, maxItems=100),
            **{name: {**maybe(schema), "description": about} for name, (schema, about) in _FILTERS.items()},
        },
        "additionalProperties": False,
    },
    "Causes": record(
        dead_letters={**WHOLE, "description": "How many there are, all told."},
        causes=listing(
            record(
                "Dead letters whose errors differ in nothing but numbers and ids: words with a digit, and what stands"
                " behind `=` in quotes or brackets, are `#` in `error`.",
                cause=CAUSE,
                error=TEXT,
                letters={"type": "integer", "minimum": 1},
                types=listing(TEXT, minItems=1, maxItems=5),
                newest_at=TIME,
                example=record("The newest.", source=TEXT, id=TEXT),
            )
        ),
        left_out={**WHOLE, "description": "How many smaller causes are not told."},
    ),
    "Replays": record(
        results=listing(
            record(
                id=TEXT,
                source=maybe(TEXT),
                outcome={"enum": ["stored", "failed", "not_dead", "unknown"]},
                error=maybe(TEXT),
            )
        ),
        next=maybe(TEXT),
    ),
    "Changes": record(
        done=WHOLE,
        not_done=listing(record("Why nothing was done about it.", id=TEXT, source=maybe(TEXT), error=TEXT)),
        next=maybe(TEXT),
    ),
    "ReplayRequest": _chosen(100, 10),
    "ChangeRequest": _chosen(1000, 100),
}


def letters_paths(
    further: Mapping[str, Any] | None = None, problems: Mapping[int, str] | None = None
) -> dict[str, dict[str, Operation]]:
    """The paths; `further` is a parameter of each, `problems` are further ones of each."""
    also = [further] if further else []
    refusals = {400: "A parameter or the body cannot be read.", **AWAY, **(problems or {})}
    one = {
        **refusals,
        404: "There is no such dead letter (any more).",
        409: "Several sources have this id, or it was discarded.",
    }
    id_ = in_path("id", "The event's id.")
    posted = {
        **refusals,
        408: "The body did not come in time.",
        413: "The body is too large.",
        422: "The body is not as it should be.",
    }
    filters = [
        {**query("id", "Only events with one of these ids.", listing(NAME, maxItems=100)), "explode": True},
        *(query(name, about, schema) for name, (schema, about) in _FILTERS.items()),
        query("discarded", "Those that were discarded, instead of the others.", {**FLAG, "default": False}),
    ]

    def changes(name: str, summary: str, about: str) -> dict[str, Operation]:
        return {
            "post": operation(
                name,
                summary,
                ref("Changes"),
                tag=TAG,
                about=about,
                parameters=also,
                body=json_body(ref("ChangeRequest"), example={"select": {"type": "order.*", "since": "2h"}}),
                problems=posted,
                right="admin",
            )
        }

    return {
        "/api/dead-letters": {
            "get": operation(
                "listDeadLetters",
                "List dead letters, newest first",
                record(
                    dead_letters=listing({"anyOf": [ref("WholeDeadLetter"), ref("DeadLetter")]}), next=maybe(TEXT)
                ),
                tag=TAG,
                parameters=[
                    LIMIT,
                    AFTER,
                    query(
                        "whole",
                        "Each with all that is kept of it; a page ends early where they are large.",
                        {**FLAG, "default": False},
                    ),
                    *filters,
                    *also,
                ],
                problems=refusals,
                right="subscribe",
            )
        },
        "/api/dead-letter-causes": {
            "get": operation(
                "countDeadLetterCauses",
                "Count dead letters by cause, the largest first",
                ref("Causes"),
                tag=TAG,
                about="What a replay or a discard of the same selection would be about.",
                parameters=[LIMIT, *filters, *also],
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
                " Each is for itself, one after another. Twice asked is once done. Those that fail stay dead, and"
                " where they are in the list: a selection is gone through by `next`, each letter once.",
                parameters=also,
                body=json_body(ref("ReplayRequest"), example={"events": [{"id": "evt_456"}]}),
                problems=posted,
                right="admin",
            )
        },
        "/api/dead-letters/discard": changes(
            "discardDeadLetters",
            "Give dead letters up for good",
            "They are listed no more (but with `discarded=true`), and not replayed; their rows are kept.",
        ),
        "/api/dead-letters/restore": changes(
            "restoreDeadLetters", "Bring discarded dead letters back", "They are listed again, and can be replayed."
        ),
        "/api/dead-letters/reset": changes(
            "resetDeadLetters", "Drop mended data", "Replays use the events as they were received again."
        ),
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
