"""The OpenAPI document of a listener."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from oncecast.core.dead_letters import ShortText, Time
from oncecast.core.health import Health
from oncecast.core.wire import Count
from oncecast.http.openapi import (
    AWAY,
    PAGE,
    SOURCE,
    EventDocument,
    Operation,
    RightFor,
    json_object,
    openapi,
    process_operations,
    query,
)
from oncecast.http.operator_api import operator_operations

EndStatus = Literal["stored", "dead"]


class EndedEvent(msgspec.Struct):
    """An event that was stored or given up."""

    event: EventDocument
    status: EndStatus
    cursor: str
    listener: str
    attempts: Count
    accepted_at: Time
    stored_at: Time


class OneEndedEvent(EndedEvent):
    """An event that has ended; `stale` if it comes from the memory of this listener."""

    stale: bool


class RetryingEvent(msgspec.Struct):
    """An event that waits for its next attempt."""

    source: str
    id: str
    type: str
    attempts: Count
    error: str
    listener: str
    failed_at: Time
    next_at: Time


class NotedGap(msgspec.Struct):
    """Events of a journal that the group could not read."""

    journal: str
    epoch: str
    first: Count
    last: Count
    reason: str
    noted_at: Time


class PruneRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/prune`."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"older_than_s": 2_592_000, "dry_run": True}
    older_than_s: Annotated[float, Meta(gt=0, le=1e10)]
    dry_run: bool = False


class ProducerConnection(msgspec.Struct):
    """What the listener has received from a producer."""

    url: str
    connected: bool
    journal: str | None
    received: Count
    watermark: Count
    cursor: str | None


class ListenerHealth(Health, frozen=True, kw_only=True):
    """The health of a listener."""

    instance: str
    group: str
    received: Count
    stored: Count
    duplicates: Count
    dead: Count
    unsent: Count | None
    conflicts_open: Count | None = None
    in_flight: Count
    taken_by_others: Count
    waiting_for_order: Count
    emissions_held_up: str | None
    on_standby: str | None
    producers: list[ProducerConnection]


def listener_document(right_for: RightFor) -> dict[str, Any]:
    """Return the OpenAPI document of a listener; `right_for` returns the right that a request needs."""
    filters = [
        query("type", "Only events of this type.", ShortText),
        query("status", "Only events with this status.", EndStatus),
        query("source", "Only events of this source.", ShortText),
        query("id", "Only events with this id.", ShortText),
    ]
    events = {
        "GET /api/events": Operation(
            "listEvents",
            "List the events that have ended, newest first",
            json_object(events=list[EndedEvent], next=str | None, stale=bool),
            "A page of large events ends at about 4 MiB, before `limit`: follow `next`."
            " While PostgreSQL is down, the answer has the newest events that this listener has ended itself,"
            " from memory, and `stale` is true.",
            [*PAGE, *filters],
            problems=AWAY,
        ),
        "GET /api/events/{id}": Operation(
            "getEvent",
            "Show an event that has ended",
            OneEndedEvent,
            parameters=[SOURCE],
            problems={404: "No event with this id has ended.", 409: "Several sources have this id.", **AWAY},
        ),
        "GET /api/retrying": Operation(
            "listRetrying",
            "List the events of the group that wait for their next attempt, the next one first",
            json_object(retrying=list[RetryingEvent], next=str | None),
            "`attempts` is the number of failed attempts; the latest failed with `error` at `listener`.",
            PAGE,
            problems=AWAY,
        ),
        "GET /api/gaps": Operation(
            "listGaps",
            "List the gaps: events that the group could not read",
            json_object(gaps=list[NotedGap]),
            problems=AWAY,
        ),
        "POST /api/prune": Operation(
            "prune",
            "Delete old rows",
            json_object(rows=Count, more=bool, dry_run=bool),
            "Deletes stored events below every saved cursor, the oldest first, some thousands per request:"
            " repeat the request while `more` is true. Dead letters are kept.",
            body=PruneRequest,
            problems=AWAY,
        ),
    }
    about = (
        "A listener processes the events of its producers, and stores each exactly once, together with the other"
        " listeners of its group."
    )
    process = process_operations("listener", "works", ListenerHealth)
    return openapi("Oncecast listener", about, right_for, {"Events": events, **operator_operations(), **process})
