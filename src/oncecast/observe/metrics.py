"""Telemetry events as Prometheus metrics: names begin with `oncecast_` and end with the unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from oncecast.core import telemetry as events
from oncecast.core.health import PROCESS, Health, Status
from oncecast.core.telemetry import Record, TelemetryEvent

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Collector):
    """The metrics of one process, in their own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._access_refused = dict.fromkeys(_REASONS.values(), 0)
        self._registry.register(self)
        self._gauges: dict[str, Gauge] = {}
        self._check_health: Callable[[], Health] | None = None

    def record(self, telemetry: TelemetryEvent) -> None:
        """Count one telemetry event."""
        kind = type(telemetry)
        if kind in self._counts:
            self._counts[kind] += getattr(telemetry, "count", 1)
        elif isinstance(telemetry, events.AccessRefused) and telemetry.status in _REASONS:
            self._access_refused[_REASONS[telemetry.status]] += 1

    def show_health(self, check: Callable[[], Health]) -> None:
        """Show the health that `check` returns at the moment of the scrape."""
        self._check_health = check

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, for the registry."""
        if self._check_health is not None:
            yield from _health_metrics(self._check_health())
        for kind, (name, text) in _COUNTED.items():
            yield CounterMetricFamily(name, text, value=self._counts[kind])
        text = "Requests and handshakes without the required token, from a foreign origin, or to an unknown host."
        access = CounterMetricFamily("oncecast_access_refused_total", text, labels=["reason"])
        for reason, count in self._access_refused.items():
            access.add_metric([reason], count)
        yield access

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show what `read` returns at the moment of the scrape, as the gauge `name` of GAUGES."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, GAUGES[name], registry=self._registry)
        self._gauges[name].set_function(read)

    def text(self) -> bytes:
        """Return the text of `/metrics`."""
        return generate_latest(self._registry)


_REASONS = {401: "unauthorized", 403: "forbidden_origin", 421: "unknown_host"}
"""The label of a refused access, by HTTP status."""
_COUNTED: dict[type[TelemetryEvent], tuple[str, str]] = {
    events.Accepted: ("oncecast_accepted_total", "Events that are on disk and acknowledged."),
    events.PublicationRefused: (
        "oncecast_refused_total",
        "Publications that were refused before anything was accepted.",
    ),
    events.ConnectionRefused: (
        "oncecast_connections_refused_total",
        "Connections that were refused or closed because of a limit before a request was read.",
    ),
    events.JournalFailed: ("oncecast_journal_failures_total", "Commits of the journal that the disk refused."),
    events.Received: ("oncecast_received_total", "Events received from producers."),
    events.Persisted: ("oncecast_stored_total", "Events that this listener stored."),
    events.Duplicates: ("oncecast_duplicates_total", "Arrivals of events that had already ended, at any listener."),
    events.ConflictsFound: ("oncecast_conflicts_total", "Events with other content under a used identity."),
    events.ProcessingFailed: ("oncecast_failed_attempts_total", "Attempts that failed."),
    events.InsertFailed: ("oncecast_database_failures_total", "Database operations for events that failed."),
    events.DeadLettered: ("oncecast_dead_total", "Events that became dead letters at this listener."),
    events.DeadLettersLogged: ("oncecast_filed_total", "Dead letters whose line is in the log file."),
    events.DeadLetterLogFailed: ("oncecast_filing_failures_total", "Failed writes to the log file of dead letters."),
    events.Sent: ("oncecast_dead_letters_sent_total", "Dead letters that the broker has confirmed."),
    events.ForwardingRefused: ("oncecast_dead_letters_refused_total", "Dead letters that the broker refused."),
    events.Replayed: ("oncecast_replayed_total", "Dead letters that a replay has stored."),
    events.ReplayFailed: ("oncecast_failed_replays_total", "Replays of dead letters that failed."),
    events.DeadLettersDiscarded: ("oncecast_discarded_total", "Dead letters that operators have discarded."),
    events.Restored: ("oncecast_restored_total", "Discarded dead letters that operators have restored."),
    events.ConflictReplayed: ("oncecast_conflicts_replayed_total", "Conflicts whose event is stored under a new id."),
    events.ConflictReplayFailed: ("oncecast_failed_conflict_replays_total", "Replays of conflicts that failed."),
    events.ConflictsDiscarded: ("oncecast_conflicts_discarded_total", "Conflicts that operators have discarded."),
    events.Pruned: ("oncecast_pruned_total", "Rows deleted because of their age."),
    events.GapNoted: ("oncecast_gaps_total", "Gaps: parts of a journal that were deleted before they were read."),
    events.Quarantined: ("oncecast_quarantined_attempts_total", "Attempts of quarantined events, each made alone."),
    events.EmissionsRelayed: ("oncecast_emitted_total", "Emitted events that a producer has accepted."),
    events.EmissionDropped: ("oncecast_refused_emissions_total", "Emitted events that no producer will accept."),
    events.LoopBlocked: ("oncecast_loop_blocked_total", "Times that a handler blocked the event loop for 3 s."),
    events.ForeignValues: (
        "oncecast_foreign_values_total",
        "Redis keys of Oncecast whose value another application wrote, and which were overwritten.",
    ),
    events.TakenOver: ("oncecast_taken_over_total", "Events taken over from dead listeners."),
    events.Reconnecting: ("oncecast_reconnects_total", "Attempts to reconnect to a producer."),
}
GAUGES = {
    "oncecast_journal_last_offset": "The newest offset of the journal (producer).",
    "oncecast_journal_bytes": "The size of the events in the journal (producer).",
    "oncecast_in_flight": "Events received and not ended (listener).",
    "oncecast_conflicts_open": "Conflicts that nobody has replayed or discarded, of the whole group (listener).",
    "oncecast_dead_letters_unsent": "Dead letters not yet sent to the broker, of the whole group (listener).",
}
"""Values that are read at the moment of the scrape, by name."""


def _health_metrics(health: Health) -> Iterator[Metric]:
    status = GaugeMetricFamily(
        "oncecast_health", "1 for the current status of the process, 0 for the others.", labels=["status"]
    )
    for word in Status:
        status.add_metric([word], float(health.status is word))
    yield status
    up = GaugeMetricFamily(
        "oncecast_dependency_up", "1 if the dependency can be used, 0 while it is down.", labels=["dependency"]
    )
    for name, part in health.parts.items():
        if name != PROCESS:
            up.add_metric([name], float(part.status is not Status.DOWN))
    yield up


def all_of(*recorders: Record) -> Record:
    """Return a function that calls each of `recorders`."""

    def record(telemetry: TelemetryEvent) -> None:
        for recorder in recorders:
            recorder(telemetry)

    return record
