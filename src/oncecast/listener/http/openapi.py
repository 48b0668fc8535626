"""The OpenAPI document of a listener."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from oncecast.core.dead_letters import Time
from oncecast.core.health import Health
from oncecast.core.wire import Count
from oncecast.http.openapi import (
    AWAY,
    Operation,
    RightFor,
    json_object,
    openapi,
    process_operations,
)
from oncecast.http.operator_api import operator_operations


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
    operations = {
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
    return openapi(
        "Oncecast listener", about, right_for, {**operator_operations(), "Operations": operations, **process}
    )
