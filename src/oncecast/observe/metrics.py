"""Facts as Prometheus metrics: names begin with `oncecast_`, units stand last."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from oncecast.core import facts
from oncecast.core.facts import Fact, Observe
from oncecast.core.health import PROCESS, Health, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Collector):
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._access_refused = dict.fromkeys(_REASONS.values(), 0)
        self._registry.register(self)
        self._gauges: dict[str, Gauge] = {}
        self._look: Callable[[], Health] | None = None

    def observe(self, fact: Fact) -> None:
        """Count one fact."""
        kind = type(fact)
        if kind in self._counts:
            self._counts[kind] += getattr(fact, "count", 1)
        elif isinstance(fact, facts.AccessRefused) and fact.status in _REASONS:
            self._access_refused[_REASONS[fact.status]] += 1

    def show_health(self, look: Callable[[], Health]) -> None:
        """Show the health that `look` answers at the moment of the scrape."""
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """What was counted, and how the process is, for the registry."""
        if self._look is not None:
            yield from _health_metrics(self._look())
        for kind, (name, text) in _COUNTED.items():
            yield CounterMetricFamily(name, text, value=self._counts[kind])
        text = "Requests and hand-shakes without the right, from a foreign origin, or to an unknown host name."
        access = CounterMetricFamily("oncecast_access_refused_total", text, labels=["reason"])
        for reason, count in self._access_refused.items():
            access.add_metric([reason], count)
        yield access

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show what `read` answers at the moment of the scrape."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, text, registry=self._registry)
        self._gauges[name].set_function(read)

    def text(self) -> bytes:
        """The exposition, for `/metrics`."""
        return generate_latest(self._registry)


_REASONS = {401: "unauthorized", 403: "forbidden_origin", 421: "unknown_host"}
"""The label of refused access, by HTTP status."""
_COUNTED: dict[type[Fact], tuple[str, str]] = {
    facts.Accepted: ("oncecast_accepted_total", "Events on disk and acknowledged."),
    facts.Refused: ("oncecast_refused_total", "Publications refused before anything was accepted."),
    facts.ConnectionRefused: (
        "oncecast_connections_refused_total",
        "Connections refused or closed for going beyond a limit before a request was read.",
    ),
    facts.JournalFailed: ("oncecast_journal_failures_total", "Commits that the disk refused."),
    facts.Received: ("oncecast_received_total", "Events that arrived from producers."),
    facts.Persisted: ("oncecast_stored_total", "Events that this listener stored."),
    facts.Duplicates: ("oncecast_duplicates_total", "Arrivals that had ended already, here or elsewhere."),
    facts.Conflicts: ("oncecast_conflicts_total", "Other content under a used identity."),
    facts.ProcessingFailed: ("oncecast_failed_attempts_total", "Attempts that failed."),
    facts.InsertFailed: ("oncecast_database_failures_total", "Tries that the database failed."),
    facts.Died: ("oncecast_dead_total", "Events given up on."),
    facts.Filed: ("oncecast_filed_total", "Dead letters whose line is in the file."),
    facts.FilingFailed: ("oncecast_filing_failures_total", "Times that the file of dead letters failed."),
    facts.Sent: ("oncecast_dead_letters_sent_total", "Dead letters that the broker has confirmed."),
    facts.SendingRefused: ("oncecast_dead_letters_refused_total", "Times that the broker refused one of several."),
    facts.Replayed: ("oncecast_replayed_total", "Dead letters that a replay has stored."),
    facts.ReplayFailed: ("oncecast_failed_replays_total", "Replays that failed again."),
    facts.Discarded: ("oncecast_discarded_total", "Dead letters that operators have discarded."),
    facts.Restored: ("oncecast_restored_total", "Discarded dead letters that operators have brought back."),
    facts.ConflictReplayed: ("oncecast_conflicts_replayed_total", "Conflicts whose event is stored under a new id."),
    facts.ConflictReplayFailed: ("oncecast_failed_conflict_replays_total", "Replays of conflicts that failed."),
    facts.ConflictsDiscarded: ("oncecast_conflicts_discarded_total", "Conflicts that operators have discarded."),
    facts.Pruned: ("oncecast_pruned_total", "Rows deleted for their age."),
    facts.GapNoted: ("oncecast_gaps_total", "Stretches of a journal that were gone before they were read."),
    facts.Suspected: ("oncecast_suspects_total", "Attempts made alone, of events that outlived their holders."),
    facts.EmissionsRelayed: ("oncecast_emitted_total", "Events of handlers that a producer has accepted."),
    facts.EmissionRefused: ("oncecast_refused_emissions_total", "Events of handlers that no producer takes."),
    facts.LoopBlocked: ("oncecast_loop_blocked_total", "Times that a handler blocked the event loop for long."),
    facts.ForeignValues: ("oncecast_foreign_values_total", "Keys in Redis whose foreign values were overwritten."),
    facts.Rescued: ("oncecast_rescued_total", "Events taken over from dead holders."),
    facts.Reconnecting: ("oncecast_reconnects_total", "Times that a feed broke and was tried again."),
}


def _health_metrics(health: Health) -> Iterator[Metric]:
    status = GaugeMetricFamily("oncecast_health", "1 for the status that the process has.", labels=["status"])
    for word in Status:
        status.add_metric([word], float(health.status is word))
    yield status
    up = GaugeMetricFamily("oncecast_dependency_up", "0 while it is down.", labels=["dependency"])
    for name, part in health.parts.items():
        if name != PROCESS:
            up.add_metric([name], float(part.status is not Status.DOWN))
    yield up


def all_of(*observers: Observe) -> Observe:
    """One observer that tells each of `observers`."""

    def observe(fact: Fact) -> None:
        for observer in observers:
            observer(fact)

    return observe
