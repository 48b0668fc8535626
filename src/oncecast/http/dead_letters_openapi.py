"""The OpenAPI paths and schemas of `/api/dead-letters…`, for listeners and for producers, which relay to them."""

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
LIMIT = query(
    "limit", "The maximum number of entries.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
)
AFTER = query("after", "The `next` value of the previous page.")
SOURCE = query("source", "The event's source; needed if several sources have this id.", NAME)
AWAY = {503: "PostgreSQL is down, or no listener can answer: retry later."}

_AGE = r"[0-9]{1,5}(ms|s|m|h|d)"
_RFC3339 = (
    r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])"
)
MOMENT = {"type": "string", "pattern": f"^({_AGE}|{_RFC3339})$"}
CAUSE = {"type": "string", "pattern": "^[0-9a-f]{10}$"}
_FILTERS = {
    "type": (NAME, "Only events of this type; `order.*` selects all types with this prefix."),
    "source": (NAME, "Only events of this source."),
    "error": (NAME, "Only dead letters whose error contains this text, in upper or lower case."),
    "cause": (CAUSE, "Only dead letters of this cause, as `/api/dead-letter-causes` names it."),
    "listener": (NAME, "Only events that died at this listener."),
    "since": (MOMENT, "Only events that died at or after this time (RFC 3339) or age (`2h`)."),
    "until": (MOMENT, "Only events that died before this time or age."),
}

_DEAD_LETTER = {
    "source": TEXT,
    "id": TEXT,
    "type": TEXT,
    "error": TEXT,
    "cause": CAUSE,
    "attempts": WHOLE,
    "listener": TEXT,
    "died_at": TIME,
    "edited": FLAG,
    "discarded_at": maybe(TIME),
}
_NAMED = {
    "type": "object",
    "properties": {"id": TEXT, "source": maybe(TEXT)},
    "required": ["id"],
    "additionalProperties": False,
}


def _chosen(maximum: int, default: int) -> dict[str, Any]:
    """Return the schema of a body that selects dead letters."""
    limit = {"type": ["integer", "null"], "minimum": 1, "maximum": maximum, "description": f"By default {default}."}
    return {
        "description": "Either the named dead letters, or the next `limit` of those that `select` selects: newest"
        " first, after `after`, the `next` value of the previous answer. An empty selection selects all.",
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
    "DeadLetter": record("An event that Oncecast has given up on.", **_DEAD_LETTER),
    "WholeDeadLetter": record(
        "A dead letter with its cause, the event as it was received, and the edited data.",
        **_DEAD_LETTER,
        trace=TEXT,
        event=ref("Event"),
        edited_data=ANY,
    ),
    "Selection": {
        "type": "object",
        "description": "Dead letters that match all given members.",
        "properties": {
            "ids": listing(NAME, maxItems=100),
            **{name: {**maybe(schema), "description": about} for name, (schema, about) in _FILTERS.items()},
        },
        "additionalProperties": False,
    },
    "Causes": record(
        dead_letters={**WHOLE, "description": "The total number of dead letters."},
        causes=listing(
            record(
                "Dead letters whose errors differ only in numbers and ids. In `error`, words with a digit and values"
                " behind `=` in quotes or brackets are replaced by `#`.",
                cause=CAUSE,
                error=TEXT,
                dead_letters={"type": "integer", "minimum": 1},
                types=listing(TEXT, minItems=1, maxItems=5),
                newest_at=TIME,
                example=record("The newest dead letter.", source=TEXT, id=TEXT),
            )
        ),
        left_out={**WHOLE, "description": "The number of less frequent causes that are not in the list."},
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
        not_done=listing(record("Why the dead letter was not changed.", id=TEXT, source=maybe(TEXT), error=TEXT)),
        next=maybe(TEXT),
    ),
    "ReplayRequest": _chosen(100, 10),
    "ChangeRequest": _chosen(1000, 100),
}


def dead_letter_paths(
    further: Mapping[str, Any] | None = None, problems: Mapping[int, str] | None = None
) -> dict[str, dict[str, Operation]]:
    """Return the paths. `further` is a parameter, and `problems` are problems, that each operation also has."""
    also = [further] if further else []
    refusals = {400: "A parameter or the body cannot be read.", **AWAY, **(problems or {})}
    one = {
        **refusals,
        404: "There is no such dead letter.",
        409: "Several sources have this id, or it was discarded.",
    }
    id_ = in_path("id", "The event's id.")
    posted = {
        **refusals,
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        422: "The body is invalid.",
    }
    filters = [
        {**query("id", "Only events with one of these ids.", listing(NAME, maxItems=100)), "explode": True},
        *(query(name, about, schema) for name, (schema, about) in _FILTERS.items()),
        query("discarded", "Discarded dead letters instead of the others.", {**FLAG, "default": False}),
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
                        "Return all fields of each dead letter; a page of large dead letters is shorter.",
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
                "Count dead letters by cause, the most frequent first",
                ref("Causes"),
                tag=TAG,
                about="A replay or discard of the same selection would process these dead letters.",
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
                about="The handlers run, and the row changes from `dead` to `stored` together with what they write."
                " Each dead letter is processed alone, one after another. A second replay changes nothing. A dead"
                " letter that fails stays dead and keeps its place in the list: follow `next` to try each once.",
                parameters=also,
                body=json_body(ref("ReplayRequest"), example={"events": [{"id": "evt_456"}]}),
                problems=posted,
                right="admin",
            )
        },
        "/api/dead-letters/discard": changes(
            "discardDeadLetters",
            "Discard dead letters",
            "They are not listed any more (except with `discarded=true`), and not replayed. Their rows are kept.",
        ),
        "/api/dead-letters/restore": changes(
            "restoreDeadLetters", "Restore discarded dead letters", "They are listed again, and can be replayed."
        ),
        "/api/dead-letters/reset": changes(
            "resetDeadLetters", "Restore the original data", "Replays use the events as they were received."
        ),
        "/api/dead-letters/{id}": {
            "get": operation(
                "getDeadLetter",
                "Show a dead letter",
                ref("WholeDeadLetter"),
                tag=TAG,
                parameters=[id_, SOURCE, *also],
                problems=one,
                right="subscribe",
            ),
            "put": operation(
                "editDeadLetter",
                "Edit the data of a dead letter",
                ref("WholeDeadLetter"),
                tag=TAG,
                about="Replays use the body instead of the event's data. The event as it was received is kept.",
                parameters=[id_, SOURCE, *also],
                body=json_body(ANY, "The edited data.", {"fails": False}),
                problems={
                    **one,
                    408: "The body did not arrive in time.",
                    413: "The body is too large.",
                    422: "PostgreSQL cannot store this data.",
                },
                right="admin",
            ),
        },
    }
