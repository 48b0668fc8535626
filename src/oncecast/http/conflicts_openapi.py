"""The OpenAPI paths and schemas of `/api/conflicts…`, for listeners and for producers, which relay to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oncecast.http.dead_letters_openapi import AFTER, AWAY, LIMIT
from oncecast.http.openapi import (
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

TAG = "Conflicts"
_CURSOR = {"type": "string", "pattern": "^[0-9A-Za-z]+:[0-9]{1,18}$"}
_CONFLICT = {
    "cursor": {**_CURSOR, "description": "The conflict's place in a journal, which names it."},
    "source": TEXT,
    "id": TEXT,
    "type": maybe(TEXT),
    "journal": TEXT,
    "listener": TEXT,
    "seen_at": TIME,
    "replayed_at": maybe(TIME),
    "replayed_as": maybe(TEXT),
    "discarded_at": maybe(TIME),
}
CONFLICT_SCHEMAS = {
    "Conflict": record("An event with other content under a used identity: kept, not processed.", **_CONFLICT),
    "ConflictReplays": record(
        results=listing(
            record(
                cursor=TEXT,
                id={**TEXT, "description": "The id of the stored event."},
                outcome={"enum": ["stored", "failed", "not_open", "unknown"]},
                error=maybe(TEXT),
            )
        )
    ),
    "ConflictChanges": record(done=WHOLE, not_done=listing(record(cursor=TEXT, error=TEXT))),
}


def conflicts_paths(
    further: Mapping[str, Any] | None = None, problems: Mapping[int, str] | None = None
) -> dict[str, dict[str, Operation]]:
    """Return the paths. `further` is a parameter, and `problems` are problems, that each operation also has."""
    also = [further] if further else []
    refusals = {400: "A parameter or the body cannot be read.", **AWAY, **(problems or {})}
    posted = {
        **refusals,
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        422: "The body is invalid.",
    }
    cursors = {
        "type": "object",
        "properties": {"cursors": listing(_CURSOR, minItems=1, maxItems=1000)},
        "required": ["cursors"],
        "additionalProperties": False,
    }
    named = {
        "type": "object",
        "properties": {"cursor": _CURSOR, "id": maybe({**NAME, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"})},
        "required": ["cursor"],
        "additionalProperties": False,
    }
    replays = {
        "type": "object",
        "properties": {"conflicts": listing(named, minItems=1, maxItems=100)},
        "required": ["conflicts"],
        "additionalProperties": False,
    }

    def changes(name: str, summary: str, about: str) -> dict[str, Operation]:
        return {
            "post": operation(
                name,
                summary,
                ref("ConflictChanges"),
                tag=TAG,
                about=about,
                parameters=also,
                body=json_body(cursors, example={"cursors": ["0f1e2d3c4b5a6978:17"]}),
                problems=posted,
                right="admin",
            )
        }

    return {
        "/api/conflicts": {
            "get": operation(
                "listConflicts",
                "List conflicts, newest first",
                record(conflicts=listing(ref("Conflict")), next=maybe(TEXT)),
                tag=TAG,
                parameters=[
                    LIMIT,
                    AFTER,
                    query(
                        "state",
                        "The state of the conflicts.",
                        {"enum": ["open", "replayed", "discarded"], "default": "open"},
                    ),
                    query("source", "Only events of this source.", NAME),
                    query("id", "Only events with this id.", NAME),
                    *also,
                ],
                problems=refusals,
                right="subscribe",
            )
        },
        "/api/conflicts/replay": {
            "post": operation(
                "replayConflicts",
                "Process conflicts under new ids",
                ref("ConflictReplays"),
                tag=TAG,
                about="Each conflict is one transaction, in the given order: the handlers run, the event is stored"
                " under its new id (a random one unless it is given), and the conflict is closed."
                " A second request finds it closed. A conflict whose handler fails stays open.",
                parameters=also,
                body=json_body(replays, example={"conflicts": [{"cursor": "0f1e2d3c4b5a6978:17"}]}),
                problems=posted,
                right="admin",
            )
        },
        "/api/conflicts/discard": changes(
            "discardConflicts", "Close conflicts without processing them", "Their rows are kept."
        ),
        "/api/conflicts/restore": changes(
            "restoreConflicts", "Open discarded conflicts again", "They are listed again, and can be replayed."
        ),
        "/api/conflicts/{cursor}": {
            "get": operation(
                "getConflict",
                "Show a conflict",
                record(
                    **_CONFLICT,
                    event=ref("Event"),
                    row={
                        "description": "The row with the same identity; null if it was pruned.",
                        "anyOf": [
                            record(status={"enum": ["stored", "dead"]}, stored_at=TIME, cursor=TEXT),
                            {"type": "null"},
                        ],
                    },
                ),
                tag=TAG,
                parameters=[in_path("cursor", "The conflict's cursor."), *also],
                problems={**refusals, 404: "There is no such conflict."},
                right="subscribe",
            )
        },
    }
