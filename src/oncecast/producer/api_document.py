"""The OpenAPI document of a producer, and the AsyncAPI document of its WebSocket."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from oncecast.core.wire import (
    PLAIN_SUBPROTOCOL,
    SUBPROTOCOL,
    Answer,
    Ask,
    Credit,
    Events,
    Gap,
    ListenerReport,
    Resume,
    Welcome,
)
from oncecast.http.conflicts_openapi import CONFLICT_SCHEMAS, conflicts_paths
from oncecast.http.dead_letters_openapi import SCHEMAS, dead_letter_paths
from oncecast.http.openapi import (
    DOCUMENTS,
    FLAG,
    HEALTH,
    NAME,
    NUMBER,
    STATUS,
    TEXT,
    WHOLE,
    in_path,
    listing,
    maybe,
    openapi,
    operation,
    query,
    record,
    ref,
)
from oncecast.producer.cloudevents.presets import PRESETS

_JOURNAL = record(
    name=TEXT,
    epoch=TEXT,
    first=WHOLE,
    last=WHOLE,
    bytes=WHOLE,
    max_bytes=WHOLE,
    max_age_s=NUMBER,
    unsettled_percent=WHOLE,
    held_back_by=maybe(TEXT),
)
_LISTENER = {
    "instance": TEXT,
    "group": TEXT,
    "sent": WHOLE,
    "lag": WHOLE,
    "cursor": maybe(TEXT),
    "received": WHOLE,
    "stored": WHOLE,
    "duplicates": WHOLE,
    "dead": WHOLE,
    "conflicts": WHOLE,
    "in_flight": WHOLE,
    "rate": NUMBER,
    "demonstration": FLAG,
    "on_standby": maybe(TEXT),
    **STATUS,
    "age_s": NUMBER,
}
_FAILURES = listing(record(id=TEXT, source=TEXT, error=TEXT, retries_left=WHOLE, at=NUMBER))


def _status(**further: Any) -> Any:
    return record(
        **STATUS,
        instance=TEXT,
        journal=_JOURNAL,
        subscribers=WHOLE,
        listeners=listing(record(**_LISTENER, **further)),
    )


_BARE = {
    "type": "object",
    "description": "An object without `specversion`, which becomes an event's data. Its members `id` and"
    " `type` are those of the event, unless the request names other places.",
    "properties": {
        "specversion": False,
        "id": {name: limit for name, limit in NAME.items() if name != "type"},
    },
}
_PLACE = " The value itself, or its place: `body:` and a JSON Pointer, or `header:` and a name."
_BARE_PARAMETERS: list[dict[str, Any]] = [
    {
        **query(
            "id",
            "The place of the id of bare events: a JSON Pointer into the body such as `/order/number`, or `header:`"
            " and a name. Several places together are one id. `new` is a random id. By default: the Idempotency-Key,"
            " else the member `id` of the body, else a random id.",
            listing(TEXT),
        ),
        "explode": True,
    },
    query(
        "preset",
        "A known sender of webhooks, which determines the places of id, type, source and subject.",
        {"enum": sorted(PRESETS)},
    ),
    query("type", f"The type of bare events.{_PLACE}", NAME),
    query("source", f"The source of bare events.{_PLACE}", NAME),
    query("subject", f"The subject of bare events.{_PLACE}", NAME),
    query("time", f"The time of bare events.{_PLACE}", TEXT),
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Gives bare events the same ids in each retry. The ids of a batch differ from each other.",
        "schema": NAME,
    },
]
_PUBLICATION: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"anyOf": [_BARE, ref("Event"), listing({"anyOf": [_BARE, ref("Event")]})]},
            "example": {"id": "o-1", "type": "order.created", "sku": "A-1", "quantity": 2},
        },
        "application/x-ndjson": {"schema": TEXT, "example": '{"type": "tick"}\n{"type": "tock"}\n'},
        "application/cloudevents+json": {
            "schema": ref("Event"),
            "example": {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created", "data": {}},
        },
        "application/cloudevents-batch+json": {"schema": listing(ref("Event"))},
    },
}


def producer_document() -> dict[str, Any]:
    """Return the OpenAPI document of a producer."""
    accepted = record(accepted=WHOLE, events=listing(record(id=TEXT, source=TEXT, cursor=TEXT)))
    group = query("group", "The group; needed if the producer serves several.", NAME)
    relayed = {
        404: "There is no such group, dead letter or conflict.",
        413: "The body is too large.",
        502: "The answer is too large to relay.",
        504: "The listener did not answer, and the outcome is unknown. A retry is safe.",
    }
    paths = {
        "/events": {
            "post": operation(
                "publish",
                "Publish events",
                accepted,
                tag="Events",
                status=202,
                about="The request is accepted or refused as a whole, and answered once the events are on disk."
                " The binary mode of CloudEvents is accepted, too: attributes as `ce-` headers, the body as data.",
                parameters=[
                    *_BARE_PARAMETERS,
                ],
                body=_PUBLICATION,
                problems={
                    400: "The body is not JSON or not UTF-8 or is incomplete, or a parameter cannot be read.",
                    408: "The body did not arrive in time.",
                    413: "An event or the request is too large.",
                    415: "This content type or encoding is not accepted.",
                    422: "An event is invalid, or cannot be stored; `detail` names the place.",
                    503: "The journal is full, or its disk fails; no event was acknowledged.",
                    507: "The disk of the journal is full; no event was accepted.",
                },
                right="publish",
            ),
            "get": operation(
                "readJournal",
                "Read events back from the journal, in order",
                record(events=listing(ref("Event")), next=TEXT),
                tag="Events",
                parameters=[
                    query(
                        "limit",
                        "The maximum number of events. A page may have fewer, although more follow after `next`.",
                        {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
                    ),
                    query(
                        "after",
                        "A cursor, `EPOCH:OFFSET`, after which the page begins.",
                        {"type": "string", "pattern": "^[0-9A-Za-z]+:[0-9]{1,18}$"},
                    ),
                ],
                problems={
                    400: "A parameter cannot be read.",
                    500: "The journal is damaged at this place; `detail` names the offsets.",
                    503: "The disk does not respond.",
                },
                right="subscribe",
            ),
        },
        **dead_letter_paths(group, relayed),
        **conflicts_paths(group, relayed),
        "/api/status": {
            "get": operation(
                "status",
                "Return the data of the page",
                _status(failures=_FAILURES),
                tag="Operations",
                right="subscribe",
            )
        },
        "/api/journal": {
            "get": operation("journal", "Show how full the journal is", _JOURNAL, tag="Operations", right="subscribe")
        },
        "/api/groups": {
            "get": operation(
                "listGroups",
                "List the groups that events are kept for",
                record(
                    groups=listing(
                        record(
                            name=TEXT,
                            cursor=TEXT,
                            behind=WHOLE,
                            connected=WHOLE,
                            unseen_s=NUMBER,
                            expired=FLAG,
                            forgotten=FLAG,
                        )
                    )
                ),
                tag="Operations",
                right="subscribe",
            )
        },
        "/api/groups/{name}": {
            "delete": operation(
                "forgetGroup",
                "Forget a group: keep no events for it",
                record(forgotten=TEXT),
                tag="Operations",
                parameters=[in_path("name", "The group's name.")],
                problems={
                    404: "There is no such group.",
                    409: "Listeners of this group are connected.",
                    503: "The journal's disk fails.",
                },
                right="admin",
            )
        },
        "/health": {"get": operation("health", "Show the health of the producer", _status(), tag="Health")},
        "/readyz": {
            "get": {
                **(
                    ready := operation("readyz", "Check whether the producer accepts events", _status(), tag="Health")
                ),
                "responses": {
                    **ready["responses"],
                    "503": {
                        "description": "The process is down or draining; `reason` says why.",
                        "content": {"application/json": {"schema": _status()}},
                    },
                },
            }
        },
        **HEALTH,
        **DOCUMENTS,
        "/asyncapi.json": {
            "get": operation(
                "asyncapi", "Return the AsyncAPI document of the WebSocket", {"type": "object"}, tag="Documents"
            )
        },
    }
    about = (
        "A producer accepts events, writes them to its journal, and broadcasts them over the WebSocket at `/`"
        " ([asyncapi.json](/asyncapi.json))."
    )
    return openapi("Oncecast producer", about, paths, {**SCHEMAS, **CONFLICT_SCHEMAS})


def websocket_document() -> dict[str, Any]:
    """Return the AsyncAPI 3 document of the WebSocket. The schemas of its frames are made from `core.wire`."""
    frames = (Welcome, Resume, Events, Gap, Credit, ListenerReport, Ask, Answer)
    schemas = msgspec.json.schema_components(frames, ref_template="#/components/schemas/{name}")[1]
    messages = {
        frame.__name__: {
            "title": frame.__name__,
            "summary": (frame.__doc__ or "").partition("\n")[0],
            "contentType": "application/json",
            "payload": ref(frame.__name__),
        }
        for frame in frames
    }
    plain = {
        "Event": "An event of the broadcast, or an event to publish.",
        "Accepted": "The event that was published on this connection is on disk. The type is `oncecast.accepted`.",
        "Refused": "The event that was published on this connection is refused. The type is `oncecast.refused`.",
    }
    messages |= {
        name: {"title": name, "summary": text, "contentType": "application/cloudevents+json", "payload": ref("Event")}
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
                                "after": TEXT,
                                "from": {"enum": ["earliest", "latest"]},
                                **dict.fromkeys(("id", "type", "source", "subject", "time"), TEXT),
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
        "components": {"messages": messages, "schemas": {"Event": SCHEMAS["Event"], **schemas}},
    }


def _does(action: str, channel: str, *messages: str) -> dict[str, Any]:
    """Return the description of an operation of the producer."""
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }
