"""All metrics by name: what they count, in which process, and with which labels.

`Metrics` serves them, and the reference page, the alert rules and the dashboard are checked against this list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Process = Literal["producer", "listener"]

BOTH: tuple[Process, ...] = ("producer", "listener")
PRODUCER: tuple[Process, ...] = ("producer",)
LISTENER: tuple[Process, ...] = ("listener",)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Upper bounds of buckets of durations, in seconds."""
EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
TYPES_MAX = 50
"""The maximum number of values of the label `type`; further types are counted as `other`."""
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. A label with known `values` has a sample for each of them from the start."""

    name: str
    kind: Kind
    processes: tuple[Process, ...]
    text: str
    labels: tuple[str, ...] = ()
    values: Sequence[str] = ()
    buckets: Sequence[float] = ()


def _metric(
    name: str,
    kind: Kind,
    processes: tuple[Process, ...],
    text: str,
    *labels: str,
    values: Sequence[str] = (),
    buckets: Sequence[float] = (),
) -> Metric:
    return Metric(f"oncecast_{name}", kind, processes, text, labels, values, buckets)


def _counter(
    name: str, processes: tuple[Process, ...], text: str, *labels: str, values: Sequence[str] = ()
) -> Metric:
    return _metric(f"{name}_total", "counter", processes, text, *labels, values=values)


def _gauge(name: str, processes: tuple[Process, ...], text: str, *labels: str) -> Metric:
    return _metric(name, "gauge", processes, text, *labels)


def _histogram(
    name: str, processes: tuple[Process, ...], text: str, *labels: str, buckets: Sequence[float] = SECONDS
) -> Metric:
    return _metric(name, "histogram", processes, text, *labels, buckets=buckets)


CATALOGUE = (
    # --- every process ---------------------------------------------------------------------------------------
    _gauge("build_info", BOTH, "Always 1; the labels name the versions.", "version", "python"),
    _gauge("health", BOTH, "1 for the current status of the process, 0 for the others.", "status"),
    _gauge("dependency_up", BOTH, "1 if the dependency can be used, 0 while it is down.", "dependency"),
    _histogram("event_loop_delay_seconds", BOTH, "How late the event loop runs a timer, four times a second."),
    _counter(
        "access_refused",
        BOTH,
        "Requests and handshakes without the required token, from a foreign origin, or to an unknown host.",
        "reason",
        values=("unauthorized", "forbidden_origin", "unknown_host"),
    ),
    _counter(
        "connections_refused",
        BOTH,
        "Connections that were refused or closed because of a limit before a request was read.",
    ),
    # --- producer: accepted events ---------------------------------------------------------------------------
    _counter("accepted", PRODUCER, "Events that are on disk and acknowledged."),
    _counter("accepted_bytes", PRODUCER, "Bytes of the requests whose events were accepted."),
    _counter(
        "refused",
        PRODUCER,
        "Publications that were refused before anything was accepted.",
        "reason",
        values=("invalid", "too_large", "unauthorized", "journal_full", "disk", "busy"),
    ),
    _histogram("commit_seconds", PRODUCER, "How long a publication waited for the commit of its events."),
    _histogram("commit_events", PRODUCER, "Events of a publication.", buckets=EVENTS),
    _counter("journal_failures", PRODUCER, "Commits of the journal that the disk refused."),
    _gauge("journal_last_offset", PRODUCER, "The newest offset of the journal."),
    _gauge("journal_bytes", PRODUCER, "The size of the events in the journal."),
    _gauge("journal_used_ratio", PRODUCER, "The size of the events that a group has not processed, of the maximum."),
    _gauge(
        "journal_headroom_seconds",
        PRODUCER,
        "Time until the journal would be full if no group processed anything more, at the rate of the last minute.",
    ),
    # --- producer: groups and readers ------------------------------------------------------------------------
    _gauge("group_lag_events", PRODUCER, "Events that the group has not processed.", "group", "journal"),
    _gauge(
        "group_oldest_unfinished_seconds",
        PRODUCER,
        "The age of the oldest event that the group has not processed; 0 if there is none.",
        "group",
    ),
    _gauge("group_listeners", PRODUCER, "Connected listeners of the group.", "group"),
    _gauge(
        "cursor_saved_timestamp_seconds",
        PRODUCER,
        "When the saved cursor of the group last moved, as Unix time.",
        "group",
        "journal",
    ),
    _gauge("subscribers", PRODUCER, "Connected readers of the broadcast.", "kind"),
    # --- listener: events ------------------------------------------------------------------------------------
    _counter("received", LISTENER, "Events received from producers."),
    _counter(
        "finished",
        LISTENER,
        "Events that ended here: stored, dead, a duplicate, or a conflict.",
        "outcome",
        "type",
    ),
    _counter("finished_elsewhere", LISTENER, "Received events that ended at another listener of the group."),
    _histogram("accept_to_stored_seconds", LISTENER, "From the acceptance of an event to the commit of its row."),
    _histogram(
        "station_seconds",
        LISTENER,
        "How long a step took: claim, insert (events without handlers), transaction (with handlers), record.",
        "station",
    ),
    _histogram("handler_seconds", LISTENER, "How long a handler ran.", "handler"),
    _gauge("handlers_running", LISTENER, "Transactions with handlers that run now."),
    _gauge("handlers_max", LISTENER, "The maximum of handlers_running: HANDLER_CONCURRENCY, or less with DB_POOL."),
    _gauge("in_flight", LISTENER, "Events received and not ended."),
    _gauge("in_flight_bytes", LISTENER, "The memory of the events received and not ended, as credit counts it."),
    _counter(
        "attempts_failed",
        LISTENER,
        "Attempts that failed and count for EVENT_ATTEMPTS, by reason: handler, retry and rejected (asked for by the"
        " handler), database, timeout or data.",
        "reason",
        "type",
    ),
    _counter("database_failures", LISTENER, "Database operations for events that failed."),
    _gauge("retrying", LISTENER, "Events that wait for their next attempt, of the whole group.", "group"),
    _counter("quarantined", LISTENER, "Attempts of quarantined events, each made alone."),
    _counter("taken_over", LISTENER, "Events taken over from dead listeners."),
    _counter("loop_blocked", LISTENER, "Times that a handler blocked the event loop for 3 s."),
    # --- listener: dead letters and conflicts ----------------------------------------------------------------
    _gauge(
        "dead_letters_open", LISTENER, "Dead letters neither replayed nor discarded, of the whole group.", "group"
    ),
    _gauge(
        "dead_letters_oldest_seconds",
        LISTENER,
        "The age of the oldest open dead letter; 0 if there is none.",
        "group",
    ),
    _counter(
        "dead_lettered",
        LISTENER,
        "Events that became dead letters at this listener.",
        "cause",
        values=("retries", "rejected", "data", "crashes"),
    ),
    _counter("replayed", LISTENER, "Dead letters that a replay has stored."),
    _counter("failed_replays", LISTENER, "Replays of dead letters that failed."),
    _counter("discarded", LISTENER, "Dead letters that operators have discarded."),
    _counter("restored", LISTENER, "Discarded dead letters that operators have restored."),
    _counter("dead_letters_logged", LISTENER, "Dead letters whose line is in the log file."),
    _counter("dead_letter_log_failures", LISTENER, "Failed writes to the log file of dead letters."),
    _gauge("dead_letters_unsent", LISTENER, "Dead letters not yet sent to the broker, of the whole group.", "group"),
    _counter("dead_letters_sent", LISTENER, "Dead letters that the broker has confirmed."),
    _counter("dead_letters_refused", LISTENER, "Dead letters that the broker refused."),
    _gauge(
        "conflicts_open", LISTENER, "Conflicts that nobody has replayed or discarded, of the whole group.", "group"
    ),
    _counter("conflicts_replayed", LISTENER, "Conflicts whose event is stored under a new id."),
    _counter("failed_conflict_replays", LISTENER, "Replays of conflicts that failed."),
    _counter("conflicts_discarded", LISTENER, "Conflicts that operators have discarded."),
    # --- listener: emitted events ----------------------------------------------------------------------------
    _gauge(
        "outbox_pending", LISTENER, "Emitted events that no producer has accepted yet, of the whole group.", "group"
    ),
    _gauge("outbox_oldest_seconds", LISTENER, "The age of the oldest of them; 0 if there is none.", "group"),
    _counter("emitted", LISTENER, "Emitted events that a producer has accepted."),
    _counter("refused_emissions", LISTENER, "Emitted events that no producer will accept."),
    # --- listener: dependencies and upkeep -------------------------------------------------------------------
    _gauge(
        "breaker_state",
        LISTENER,
        "The circuit breaker: 0 closed, 1 half-open, 2 open.",
        "dependency",
    ),
    _gauge("standby", LISTENER, "1 while this listener is on standby, because it lacks handlers of the group."),
    _counter("reconnects", LISTENER, "Attempts to reconnect to a producer."),
    _counter("gaps", LISTENER, "Gaps: parts of a journal that were deleted before they were read."),
    _counter("pruned", LISTENER, "Rows deleted because of their age."),
    _counter(
        "foreign_values",
        LISTENER,
        "Redis keys of Oncecast whose value another application wrote, and which were overwritten.",
    ),
)
