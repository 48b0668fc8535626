"""The OpenAPI document of a producer, and the AsyncAPI document of its WebSocket."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from oncecast.core.dead_letters import TEXT_SCHEMA, ShortText
from oncecast.core.health import Health
from oncecast.core.wire import (
    PLAIN_SUBPROTOCOL,
    SUBPROTOCOL,
    Answer,
    Ask,
    Count,
    Credit,
    Events,
    Gap,
    ListenerReport,
    Resume,
    Welcome,
)
from oncecast.http.openapi import (
    EVENT,
    LIMIT,
    REF,
    CursorText,
    EventDocument,
    Operation,
    RightFor,
    json_object,
    openapi,
    process_operations,
    query,
    resolved,
)
from oncecast.http.operator_api import operator_operations
from oncecast.producer.broadcast.listeners import ListedListener
from oncecast.producer.cloudevents.presets import PRESETS
from oncecast.producer.retention import GroupStatus, JournalStatus


class ProducerStatus(Health, frozen=True, kw_only=True):
    """The health of a producer and its listeners."""

    instance: str
    journal: JournalStatus
    subscribers: Count
    listeners: Sequence[ListedListener]
    """The connected listeners."""
    gone: Sequence[ListedListener]
    """Listeners that were connected: `draining` if they have stopped, else `down`."""
    groups: Sequence[GroupStatus]


class AcceptedEvent(msgspec.Struct):
    """The place of an event in the journal."""

    id: str
    source: str
    cursor: str


_PLACE = " The value itself, or its place: `body:` and a JSON Pointer, or `header:` and a name."


_BARE_PARAMETERS = [
    query(
        "id",
        "The place of the id of bare events: a JSON Pointer into the body such as `/order/number`, or `header:` and a"
        " name. Several places together are one id. `new` is a random id. By default: the Idempotency-Key, else the"
        " member `id` of the body, else a random id.",
        list[str],
    ),
    query(
        "preset",
        "A known sender of webhooks, which determines the places of id, type, source and subject.",
        {"enum": sorted(PRESETS)},
    ),
    query("type", f"The type of bare events.{_PLACE}", ShortText),
    query("source", f"The source of bare events.{_PLACE}", ShortText),
    query("subject", f"The subject of bare events.{_PLACE}", ShortText),
    query("time", f"The time of bare events.{_PLACE}"),
    {
        "name": "Prefer",
        "in": "header",
        "description": "With `return=minimal`, the answer has no `events`: less work if you need no cursors.",
        "schema": {"enum": ["return=minimal"]},
    },
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Gives bare events the same ids in each retry. The ids of a batch differ from each other.",
        "schema": ShortText,
    },
]
_BARE = {
    "type": "object",
    "description": "An object without `specversion`, which becomes an event's data. Its members `id` and"
    " `type` are those of the event, unless the request names other places.",
    "properties": {
        "specversion": False,
        "id": TEXT_SCHEMA,
    },
}
_EITHER = {"anyOf": [_BARE, EventDocument]}
_PUBLICATION = {
    "application/json": {
        "schema": {"anyOf": [_BARE, EventDocument, {"type": "array", "items": _EITHER}]},
        "example": {"id": "o-1", "type": "order.created", "sku": "A-1", "quantity": 2},
    },
    "application/x-ndjson": {"schema": str, "example": '{"type": "tick"}\n{"type": "tock"}\n'},
    "application/cloudevents+json": {
        "schema": EventDocument,
        "example": {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created", "data": {}},
    },
    "application/cloudevents-batch+json": {"schema": list[EventDocument]},
}


def producer_document(right_for: RightFor) -> dict[str, Any]:
    """Return the OpenAPI document of a producer; `right_for` returns the right that a request needs."""
    relayed = {
        404: "There is no such group, dead letter or conflict.",
        413: "The body is too large.",
        502: "The answer is too large to relay.",
        504: "The listener did not answer, and the outcome is unknown. A retry is safe.",
    }
    events = {
        "POST /events": Operation(
            "publish",
            "Publish events",
            {**json_object(accepted=Count, events=list[AcceptedEvent]), "required": ["accepted"]},
            "The request is accepted or refused as a whole, and answered once the events are on disk."
            " The binary mode of CloudEvents is accepted, too: attributes as `ce-` headers, the body as data.",
            _BARE_PARAMETERS,
            _PUBLICATION,
            {
                400: "The body is not JSON or not UTF-8 or is incomplete, or a parameter cannot be read.",
                413: "An event or the request is too large.",
                415: "This content type or encoding is not accepted.",
                422: "An event is invalid, or cannot be stored; `detail` names the place.",
                503: "The journal is full, or its disk fails; no event was acknowledged.",
                507: "The disk of the journal is full; no event was accepted.",
            },
            status=202,
        ),
        "GET /events": Operation(
            "readJournal",
            "Read events back from the journal, in order",
            json_object(events=list[EventDocument], next=str),
            "A page may have fewer events than `limit`, although more follow after `next`.",
            [LIMIT, query("after", "A cursor, `EPOCH:OFFSET`, after which the page begins.", CursorText)],
            problems={
                500: "The journal is damaged at this place; `detail` names the offsets.",
                503: "The disk does not respond.",
            },
        ),
    }
    operations = {
        "GET /api/status": Operation("status", "Return the data of the page", ProducerStatus),
        "GET /api/journal": Operation("journal", "Show how full the journal is", JournalStatus),
        "GET /api/groups": Operation(
            "listGroups", "List the groups that events are kept for", json_object(groups=list[GroupStatus])
        ),
        "DELETE /api/groups/{name}": Operation(
            "forgetGroup",
            "Forget a group: keep no events for it",
            json_object(forgotten=str),
            problems={
                404: "There is no such group.",
                409: "Listeners of this group are connected.",
                503: "The journal's disk fails.",
            },
        ),
        "DELETE /api/listeners/{group}/{instance}": Operation(
            "dismissListener",
            "Dismiss a listener that has gone: list it no longer",
            json_object(dismissed=str),
            problems={404: "No such listener has gone."},
        ),
    }
    websocket = Operation("asyncapi", "Return the AsyncAPI document of the WebSocket", {"type": "object"})
    about = (
        "A producer accepts events, writes them to its journal, and broadcasts them over the WebSocket at `/`"
        " ([asyncapi.json](/asyncapi.json))."
    )
    group = query("group", "The group; needed if the producer serves several.", ShortText)
    process = process_operations("producer", "accepts events", ProducerStatus)
    by_tag = {
        "Events": events,
        **operator_operations([group], relayed),
        "Operations": operations,
        **process,
        "Documents": {**process["Documents"], "GET /asyncapi.json": websocket},
    }
    return openapi("Oncecast producer", about, right_for, by_tag)


_SOCKET_TEXTS = ("after", "id", "type", "source", "subject", "time")


def websocket_document() -> dict[str, Any]:
    """Return the AsyncAPI 3 document of the WebSocket. The schemas of its frames are made from `core.wire`."""
    frames = (Welcome, Resume, Events, Gap, Credit, ListenerReport, Ask, Answer)
    schemas = msgspec.json.schema_components(frames, ref_template=REF)[1]
    schemas["Event"] = resolved(EVENT, schemas)
    messages = {
        frame.__name__: {
            "title": frame.__name__,
            "summary": (frame.__doc__ or "").partition("\n")[0],
            "contentType": "application/json",
            "payload": {"$ref": REF.format(name=frame.__name__)},
        }
        for frame in frames
    }
    plain = {
        "Event": "An event of the broadcast, or an event to publish.",
        "Accepted": "The event that was published on this connection is on disk. The type is `oncecast.accepted`.",
        "Refused": "The event that was published on this connection is refused. The type is `oncecast.refused`.",
    }
    messages |= {
        name: {
            "title": name,
            "summary": text,
            "contentType": "application/cloudevents+json",
            "payload": {"$ref": REF.format(name="Event")},
        }
        for name, text in plain.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Oncecast producer, WebSocket",
            "version": version("oncecast"),
            "license": {"name": "MIT"},
            "description": "Plain clients receive each event as one frame and publish by sending one. Listeners offer"
            f" the subprotocol `{SUBPROTOCOL}`.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "broadcast": {
                "address": "/",
                "title": "Plain clients",
                "description": f"Without a subprotocol, or with `{PLAIN_SUBPROTOCOL}`. `?after=EPOCH:OFFSET`"
                " continues after that event, `?from=earliest` starts with the oldest kept event. `?id=`, `?type=`"
                " and so on mean the same as at `POST /events`, except for headers. A client that is too slow is"
                " closed; the reason has the cursor to continue from.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in plain},
                "bindings": {
                    "ws": {
                        "query": {
                            "type": "object",
                            "properties": {
                                "from": {"enum": ["earliest", "latest"]},
                                **{name: {"type": "string"} for name in _SOCKET_TEXTS},
                            },
                        }
                    }
                },
            },
            "listeners": {
                "address": "/",
                "title": f"Listeners, {SUBPROTOCOL}",
                "description": "The producer sends `welcome`, the listener answers `resume`. Then the producer sends"
                " `events`, and a `gap` for deleted events, as long as the listener's credit lasts. A `resume` with"
                " a `group` needs the right to be a listener of that group (LISTENER_TOKENS). Without a group the"
                " client only reads: its reports are ignored, and it receives no `ask`. A client without the right to"
                " be a listener gets no `key`. Credit counts the bytes of whole frames, and the `event_cost` of each"
                " event.",
                "messages": {f.__name__: {"$ref": f"#/components/messages/{f.__name__}"} for f in frames},
            },
        },
        "operations": {
            "publish": _does("receive", "broadcast", "Event"),
            "broadcast": _does("send", "broadcast", "Event", "Accepted", "Refused"),
            "feed": _does("send", "listeners", "Welcome", "Events", "Gap", "Ask"),
            "follow": _does("receive", "listeners", "Resume", "Credit", "ListenerReport", "Answer"),
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _does(action: str, channel: str, *messages: str) -> dict[str, Any]:
    """Return the description of an operation of the producer."""
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }
