"""The requests and answers about ended events, dead letters and conflicts.

Listeners answer these requests; producers relay them to a listener.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from oncecast.core.conflicts import ConflictState
from oncecast.core.dead_letter_ports import Causes
from oncecast.core.dead_letters import CauseName, Selection, ShortText, Time
from oncecast.core.wire import Count
from oncecast.http.openapi import (
    AWAY,
    LIMIT,
    PAGE,
    SOURCE,
    CursorText,
    EventDocument,
    Operation,
    Operations,
    json_object,
    query,
    query_of,
)

REPLAY_MAX = 100
"""The most dead letters or conflicts that one request replays."""
CHANGE_MAX = 1_000
"""The most dead letters or conflicts that one request changes otherwise."""
REPLAY_DEFAULT_EVENTS = 10
CHANGE_DEFAULT_EVENTS = 100


def _outcome(*names: str) -> Meta:
    return Meta(extra_json_schema={"enum": [*names]})


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON body without unknown members."""


# --- dead letters -----------------------------------------------------------------------------------------


class NamedDeadLetter(_Request):
    """A dead letter by its id, and by its source where several sources have that id."""

    id: str
    source: str | None = None


class ChangeRequest(_Request):
    """Either the named dead letters, or the next `limit` of those that `select` selects: newest first, after `after`,
    the `next` value of the previous answer. An empty selection selects all."""

    events: Annotated[list[NamedDeadLetter], Meta(min_length=1, max_length=CHANGE_MAX)] | UnsetType = UNSET
    select: Selection | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=CHANGE_MAX, description=f"By default {CHANGE_DEFAULT_EVENTS}.")] | None = None
    after: str | None = None
    EXAMPLE: ClassVar[dict[str, Any]] = {"select": {"type": "order.*", "since": "2h"}}


class ReplayRequest(ChangeRequest):
    """As ChangeRequest, with fewer dead letters."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"events": [{"id": "evt_456"}]}
    events: Annotated[list[NamedDeadLetter], Meta(min_length=1, max_length=REPLAY_MAX)] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=REPLAY_MAX, description=f"By default {REPLAY_DEFAULT_EVENTS}.")] | None = None


class ListedDeadLetter(msgspec.Struct):
    """An event that Oncecast has given up on."""

    source: str
    id: str
    type: str
    error: str
    cause: CauseName
    attempts: Count
    listener: str
    died_at: Time
    edited: bool
    discarded_at: Time | None


class WholeDeadLetter(ListedDeadLetter):
    """A dead letter with its cause, the event as it was received, and the edited data."""

    trace: str
    event: EventDocument
    edited_data: Any


class DeadLetterReplayResult(msgspec.Struct):
    """The result of one replay."""

    id: str
    source: str | None
    outcome: Annotated[str, _outcome("stored", "failed", "not_dead", "unknown")]
    error: str | None


class DeadLetterUnchanged(msgspec.Struct):
    """Why the dead letter was not changed."""

    id: str
    source: str | None
    error: str


# --- events -----------------------------------------------------------------------------------------------

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


# --- conflicts --------------------------------------------------------------------------------------------


class NamedConflict(_Request):
    """A conflict by its cursor, and the id for its event; null draws a new id."""

    cursor: CursorText
    id: ShortText | None = None


class ConflictReplayRequest(_Request):
    """The conflicts to replay, in this order."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"conflicts": [{"cursor": "0f1e2d3c4b5a6978:17"}]}
    conflicts: Annotated[list[NamedConflict], Meta(min_length=1, max_length=REPLAY_MAX)]


class ConflictChangeRequest(_Request):
    """The conflicts to discard or to restore."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"cursors": ["0f1e2d3c4b5a6978:17"]}
    cursors: Annotated[list[CursorText], Meta(min_length=1, max_length=CHANGE_MAX)]


class Conflict(msgspec.Struct):
    """An event with other content under a used identity: kept, not processed."""

    cursor: Annotated[CursorText, Meta(description="The conflict's place in a journal, which names it.")]
    source: str
    id: str
    type: str | None
    journal: str
    listener: str
    seen_at: Time
    replayed_at: Time | None
    replayed_as: str | None
    discarded_at: Time | None


class RowOfIdentity(msgspec.Struct):
    """The row that has the identity of a conflict."""

    status: Literal["stored", "dead"]
    stored_at: Time
    cursor: str


class WholeConflict(Conflict):
    """A conflict with its event as received."""

    event: EventDocument
    row: Annotated[RowOfIdentity | None, Meta(description="The row with the same identity; null if it was pruned.")]


class ConflictReplayResult(msgspec.Struct):
    """The result of one replay."""

    cursor: str
    id: Annotated[str, Meta(description="The id of the stored event.")]
    outcome: Annotated[str, _outcome("stored", "failed", "not_open", "unknown")]
    error: str | None


class ConflictUnchanged(msgspec.Struct):
    """Why the conflict was not changed."""

    cursor: str
    error: str


# --- requests ---------------------------------------------------------------------------------------------


_ONE_OF = Meta(extra_json_schema={"oneOf": [{"required": ["events"]}, {"required": ["select"]}]})
_ONE = {404: "There is no such dead letter.", 409: "Several sources have this id, or it was discarded."}


def operator_operations(
    parameters: Sequence[Mapping[str, Any]] = (), problems: Mapping[int, str] | None = None
) -> Operations:
    """Return the requests; each has `parameters` and `problems` in addition to its own."""
    selection = [{**each, "name": "id" if each["name"] == "ids" else each["name"]} for each in query_of(Selection)]
    changes = json_object(done=Count, not_done=list[DeadLetterUnchanged], next=str | None)
    conflict_changes = json_object(done=Count, not_done=list[ConflictUnchanged])
    dead_letters = {
        "GET /api/dead-letters": Operation(
            "listDeadLetters",
            "List dead letters, newest first",
            json_object(
                dead_letters={"type": "array", "items": {"anyOf": [WholeDeadLetter, ListedDeadLetter]}},
                next=str | None,
            ),
            parameters=[
                *PAGE,
                query(
                    "whole",
                    "Return all fields of each dead letter; a page of large dead letters is shorter.",
                    {"type": "boolean", "default": False},
                ),
                *selection,
            ],
        ),
        "GET /api/dead-letter-causes": Operation(
            "countDeadLetterCauses",
            "Count dead letters by cause, the most frequent first",
            Causes,
            "A replay or discard of the same selection would process these dead letters.",
            [LIMIT, *selection],
        ),
        "POST /api/dead-letters/replay": Operation(
            "replayDeadLetters",
            "Process dead letters again",
            json_object(results=list[DeadLetterReplayResult], next=str | None, ordered=bool),
            "The handlers run, and the row changes from `dead` to `stored` together with what they write."
            " Each dead letter is processed alone, one after another. A second replay changes nothing. A dead"
            " letter that fails stays dead and keeps its place in the list: follow `next` to try each once.",
            body=Annotated[ReplayRequest, _ONE_OF],
        ),
        "POST /api/dead-letters/discard": Operation(
            "discardDeadLetters",
            "Discard dead letters",
            changes,
            "They are not listed any more (except with `discarded=true`), and not replayed. Their rows are kept.",
            body=Annotated[ChangeRequest, _ONE_OF],
        ),
        "POST /api/dead-letters/restore": Operation(
            "restoreDeadLetters",
            "Restore discarded dead letters",
            changes,
            "They are listed again, and can be replayed.",
            body=Annotated[ChangeRequest, _ONE_OF],
        ),
        "POST /api/dead-letters/reset": Operation(
            "resetDeadLetters",
            "Restore the original data",
            changes,
            "Replays use the events as they were received.",
            body=Annotated[ChangeRequest, _ONE_OF],
        ),
        "GET /api/dead-letters/{id}": Operation(
            "getDeadLetter", "Show a dead letter", WholeDeadLetter, parameters=[SOURCE], problems=_ONE
        ),
        "PUT /api/dead-letters/{id}": Operation(
            "editDeadLetter",
            "Edit the data of a dead letter",
            WholeDeadLetter,
            "Replays use the body instead of the event's data. The event as it was received is kept.",
            [SOURCE],
            body={"application/json": {"schema": Any, "example": {"fails": False}}},
            problems={**_ONE, 422: "PostgreSQL cannot store this data."},
        ),
    }
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
        ),
        "GET /api/events/{id}": Operation(
            "getEvent",
            "Show an event that has ended",
            OneEndedEvent,
            parameters=[SOURCE],
            problems={404: "No event with this id has ended.", 409: "Several sources have this id."},
        ),
        "GET /api/retrying": Operation(
            "listRetrying",
            "List the events of the group that wait for their next attempt, the next one first",
            json_object(retrying=list[RetryingEvent], next=str | None),
            "`attempts` is the number of failed attempts; the latest failed with `error` at `listener`.",
            PAGE,
        ),
    }
    conflicts = {
        "GET /api/conflicts": Operation(
            "listConflicts",
            "List conflicts, newest first",
            json_object(conflicts=list[Conflict], next=str | None),
            parameters=[
                *PAGE,
                query("state", "The state of the conflicts.", {"enum": get_args(ConflictState), "default": "open"}),
                query("source", "Only events of this source.", ShortText),
                query("id", "Only events with this id.", ShortText),
            ],
        ),
        "POST /api/conflicts/replay": Operation(
            "replayConflicts",
            "Process conflicts under new ids",
            json_object(results=list[ConflictReplayResult]),
            "Each conflict is one transaction, in the given order: the handlers run, the event is stored"
            " under its new id (a random one unless it is given), and the conflict is closed."
            " A second request finds it closed. A conflict whose handler fails stays open.",
            body=ConflictReplayRequest,
        ),
        "POST /api/conflicts/discard": Operation(
            "discardConflicts",
            "Close conflicts without processing them",
            conflict_changes,
            "Their rows are kept.",
            body=ConflictChangeRequest,
        ),
        "POST /api/conflicts/restore": Operation(
            "restoreConflicts",
            "Open discarded conflicts again",
            conflict_changes,
            "They are listed again, and can be replayed.",
            body=ConflictChangeRequest,
        ),
        "GET /api/conflicts/{cursor}": Operation(
            "getConflict",
            "Show a conflict",
            WholeConflict,
            problems={400: "A parameter cannot be read.", 404: "There is no such conflict."},
        ),
    }

    def relayed(made: Operation) -> Operation:
        all_problems = {**AWAY, **(problems or {}), **made.problems}
        return replace(made, parameters=[*made.parameters, *parameters], problems=all_problems)

    by_tag = {"Ended events": events, "Dead letters": dead_letters, "Conflicts": conflicts}
    return {tag: {name: relayed(each) for name, each in made.items()} for tag, made in by_tag.items()}
