"""The OpenAPI document of a listener."""

from __future__ import annotations

from typing import Any

from oncecast.http.conflicts_openapi import CONFLICT_SCHEMAS, conflicts_paths
from oncecast.http.dead_letters_openapi import AFTER, AWAY, LIMIT, SCHEMAS, SOURCE, dead_letter_paths
from oncecast.http.openapi import (
    DOCUMENTS,
    FLAG,
    HEALTH,
    NAME,
    STATUS,
    TEXT,
    TIME,
    WHOLE,
    in_path,
    json_body,
    listing,
    maybe,
    openapi,
    operation,
    query,
    record,
    ref,
)

_ENDED = {
    "event": ref("Event"),
    "status": {"enum": ["stored", "dead"]},
    "cursor": TEXT,
    "listener": TEXT,
    "attempts": WHOLE,
    "accepted_at": TIME,
    "stored_at": TIME,
}
_HEALTH = record(
    **STATUS,
    instance=TEXT,
    group=TEXT,
    received=WHOLE,
    stored=WHOLE,
    duplicates=WHOLE,
    dead=WHOLE,
    unsent=maybe(WHOLE),
    conflicts_open=maybe(WHOLE),
    in_flight=WHOLE,
    taken_by_others=WHOLE,
    waiting_for_order=WHOLE,
    emissions_held_up=maybe(TEXT),
    on_standby=maybe(TEXT),
    producers=listing(
        record(
            url=TEXT,
            connected=FLAG,
            journal=maybe(TEXT),
            received=WHOLE,
            watermark=WHOLE,
            cursor=maybe(TEXT),
        )
    ),
)


def listener_document() -> dict[str, Any]:
    """Return the OpenAPI document of a listener."""
    filters = [
        query("type", "Only events of this type.", NAME),
        query("status", "Only events with this status.", {"enum": ["stored", "dead"]}),
        query("source", "Only events of this source.", NAME),
        query("id", "Only events with this id.", NAME),
    ]
    paths = {
        "/api/events": {
            "get": operation(
                "listEvents",
                "List the events that have ended, newest first",
                record(events=listing(record(**_ENDED)), next=maybe(TEXT), stale=FLAG),
                tag="Events",
                about="A page of large events ends at about 4 MiB, before `limit`: follow `next`."
                " While PostgreSQL is down, the answer has the newest events that this listener has ended itself,"
                " from memory, and `stale` is true.",
                parameters=[LIMIT, AFTER, *filters],
                problems={400: "A parameter cannot be read.", **AWAY},
                right="subscribe",
            )
        },
        "/api/events/{id}": {
            "get": operation(
                "getEvent",
                "Show an event that has ended",
                record(**_ENDED, stale=FLAG),
                tag="Events",
                parameters=[in_path("id", "The event's id."), SOURCE],
                problems={
                    400: "A parameter cannot be read.",
                    404: "No event with this id has ended.",
                    409: "Several sources have this id.",
                    **AWAY,
                },
                right="subscribe",
            )
        },
        "/api/retrying": {
            "get": operation(
                "listRetrying",
                "List the events of the group that wait for their next attempt, the next one first",
                record(
                    retrying=listing(
                        record(
                            source=TEXT,
                            id=TEXT,
                            type=TEXT,
                            attempts=WHOLE,
                            error=TEXT,
                            listener=TEXT,
                            failed_at=TIME,
                            next_at=TIME,
                        )
                    ),
                    next=maybe(TEXT),
                ),
                tag="Events",
                about="`attempts` is the number of failed attempts; the latest failed with `error` at `listener`.",
                parameters=[LIMIT, AFTER],
                problems={400: "A parameter cannot be read.", **AWAY},
                right="subscribe",
            )
        },
        "/api/gaps": {
            "get": operation(
                "listGaps",
                "List the gaps: events that the group could not read",
                record(
                    gaps=listing(
                        record(journal=TEXT, epoch=TEXT, first=WHOLE, last=WHOLE, reason=TEXT, noted_at=TIME)
                    )
                ),
                tag="Events",
                problems=AWAY,
                right="subscribe",
            )
        },
        **dead_letter_paths(),
        **conflicts_paths(),
        "/api/prune": {
            "post": operation(
                "prune",
                "Delete old rows",
                record(rows=WHOLE, more=FLAG, dry_run=FLAG),
                tag="Events",
                about="Deletes stored events below every saved cursor, the oldest first, some thousands per request:"
                " repeat the request while `more` is true. Dead letters are kept.",
                body=json_body(
                    {
                        "type": "object",
                        "properties": {
                            "older_than_s": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e10},
                            "dry_run": FLAG,
                        },
                        "required": ["older_than_s"],
                        "additionalProperties": False,
                    },
                    example={"older_than_s": 2_592_000, "dry_run": True},
                ),
                problems={
                    400: "The body cannot be read.",
                    408: "The body did not arrive in time.",
                    413: "The body is too large.",
                    422: "The body is invalid.",
                    **AWAY,
                },
                right="admin",
            )
        },
        "/health": {"get": operation("health", "Show the health of the listener", _HEALTH, tag="Health")},
        "/readyz": {
            "get": {
                **(ready := operation("readyz", "Check whether the listener works", _HEALTH, tag="Health")),
                "responses": {
                    **ready["responses"],
                    "503": {
                        "description": "The process is down or draining; `reason` says why.",
                        "content": {"application/json": {"schema": _HEALTH}},
                    },
                },
            }
        },
        **HEALTH,
        **DOCUMENTS,
    }
    about = (
        "A listener processes the events of its producers, and stores each exactly once, together with the other"
        " listeners of its group."
    )
    return openapi("Oncecast listener", about, paths, {**SCHEMAS, **CONFLICT_SCHEMAS})
