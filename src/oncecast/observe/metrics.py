"""Telemetry events as Prometheus metrics, by the names of the catalogue."""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client import core as families
from prometheus_client.registry import Collector

from oncecast.core import telemetry as events
from oncecast.core.health import PROCESS, Health, Status
from oncecast.core.telemetry import Record, TelemetryEvent
from oncecast.observe.catalogue import CATALOGUE, OTHER, TYPES_MAX, Metric, Process

NO_DEPENDENCIES = (PROCESS, "listeners", "groups")
"""Parts of the health of a process that it does not depend on."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[str, ...]
Read = Callable[[], float | Mapping[Labels, float] | None]
"""What a gauge shows at the moment of the scrape: a value, values by labels, or None for no sample."""


class Counter:
    """A counter by label values. The label `type` has at most TYPES_MAX values."""

    def __init__(self, metric: Metric) -> None:
        self.values: dict[Labels, float] = {(value,): 0.0 for value in metric.values}
        if not metric.labels:
            self.values[()] = 0.0
        self._has_types = "type" in metric.labels
        self._types: set[str] = set()

    def add(self, count: float, *labels: str) -> None:
        """Add to the sample with these labels, the type last."""
        if self._has_types and labels[-1] not in self._types:
            if len(self._types) < TYPES_MAX:
                self._types.add(labels[-1])
            else:
                labels = (*labels[:-1], OTHER)
        self.values[labels] = self.values.get(labels, 0.0) + count


class Histogram:
    """Observations by bucket, by label values."""

    def __init__(self, metric: Metric) -> None:
        self._bounds = metric.buckets
        self.samples: dict[Labels, tuple[list[int], list[float]]] = {}
        """The number of observations of each bucket, and their sum in a list of one."""
        if not metric.labels:
            self._sample(())

    def _sample(self, labels: Labels) -> tuple[list[int], list[float]]:
        return self.samples.setdefault(labels, ([0] * (len(self._bounds) + 1), [0.0]))

    def observe(self, value: float, *labels: str, count: int = 1) -> None:
        """Add `count` observations of one value."""
        buckets, total = self._sample(labels)
        buckets[bisect_left(self._bounds, value)] += count
        total[0] += value * count

    def cumulated(self, labels: Labels) -> list[tuple[str, float]]:
        """Return the upper bound of each bucket, and the number of observations up to it."""
        bounds = [f"{bound:g}" for bound in self._bounds] + ["+Inf"]
        below, found = 0, []
        for bound, count in zip(bounds, self.samples[labels][0], strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Metrics(Collector):
    """The metrics of one process, in their own registry."""

    def __init__(self, process: Process) -> None:
        self._own = [metric for metric in CATALOGUE if process in metric.processes]
        self._counters = {m.name: Counter(m) for m in CATALOGUE if m.kind == "counter"}
        self._histograms = {m.name: Histogram(m) for m in CATALOGUE if m.kind == "histogram"}
        self._gauges: dict[str, Read] = {
            "oncecast_build_info": lambda: {(version("oncecast"), platform.python_version()): 1.0}
        }
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def record(self, telemetry: TelemetryEvent) -> None:
        """Count one telemetry event."""
        kind = type(telemetry)
        if (name := _COUNTED.get(kind)) is not None:
            self._add(name, getattr(telemetry, "count", 1))
        elif (count := _COUNTS.get(kind)) is not None:
            count(self, telemetry)

    def _add(self, name: str, count: float, *labels: str) -> None:
        self._counters[f"oncecast_{name}_total"].add(count, *labels)

    def _observe(self, name: str, value: float, *labels: str, count: int = 1) -> None:
        self._histograms[f"oncecast_{name}"].observe(value, *labels, count=count)

    def loop_delayed(self, delay_s: float) -> None:
        """Count one measurement of the event loop's delay."""
        self._observe("event_loop_delay_seconds", delay_s)

    def show(self, name: str, read: Read) -> None:
        """Show what `read` returns at the moment of the scrape as the gauge `oncecast_NAME`."""
        self._gauges[f"oncecast_{name}"] = read

    def show_health(self, check: Callable[[], Health]) -> None:
        """Show the health that `check` returns at the moment of the scrape."""
        self.show("health", lambda: {(word,): float(check().status is word) for word in Status})
        self.show(
            "dependency_up",
            lambda: {
                (name,): float(part.status is not Status.DOWN)
                for name, part in check().parts.items()
                if name not in NO_DEPENDENCIES
            },
        )

    def collect(self) -> Iterator[families.Metric]:
        """Yield all metrics, for the registry."""
        for metric in self._own:
            match metric.kind:
                case "counter":
                    yield self._counter_family(metric)
                case "histogram":
                    yield self._histogram_family(metric)
                case "gauge":
                    yield self._gauge_family(metric)

    def _counter_family(self, metric: Metric) -> families.Metric:
        family = families.CounterMetricFamily(metric.name, metric.text, labels=metric.labels)
        for labels, value in self._counters[metric.name].values.items():
            family.add_metric(labels, value)
        return family

    def _histogram_family(self, metric: Metric) -> families.Metric:
        family = families.HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        histogram = self._histograms[metric.name]
        for labels, (_, total) in histogram.samples.items():
            family.add_metric(labels, histogram.cumulated(labels), total[0])
        return family

    def _gauge_family(self, metric: Metric) -> families.Metric:
        family = families.GaugeMetricFamily(metric.name, metric.text, labels=metric.labels)
        read = self._gauges.get(metric.name)
        shown = None if read is None else read()
        if shown is not None:
            for labels, value in (shown if isinstance(shown, Mapping) else {(): shown}).items():
                family.add_metric(labels, value)
        return family

    def text(self) -> bytes:
        """Return the text of `/metrics`."""
        return generate_latest(self._registry)

    # --- telemetry with labels or durations ------------------------------------------------------------------

    def _accepted(self, telemetry: events.Accepted) -> None:
        self._add("accepted", telemetry.count)
        self._add("accepted_bytes", telemetry.bytes)
        self._observe("commit_seconds", telemetry.commit_s)
        self._observe("commit_events", telemetry.count)

    def _refused(self, telemetry: events.PublicationRefused) -> None:
        self._add("refused", 1, telemetry.kind)

    def _access_refused(self, telemetry: events.AccessRefused) -> None:
        if telemetry.status in _ACCESS:
            self._add("access_refused", 1, _ACCESS[telemetry.status])

    def _persisted(self, telemetry: events.Persisted) -> None:
        for type_, count in telemetry.types.items():
            self._add("finished", count, "stored", type_)
        for waited_s, count in telemetry.waited_s:
            self._observe("accept_to_stored_seconds", waited_s, count=count)

    def _duplicates(self, telemetry: events.Duplicates) -> None:
        if telemetry.elsewhere:
            self._add("finished_elsewhere", telemetry.count)
        for type_, count in telemetry.types.items():
            self._add("finished", count, "duplicate", type_)

    def _conflicts(self, telemetry: events.ConflictsFound) -> None:
        for type_, count in telemetry.types.items():
            self._add("finished", count, "conflict", type_)

    def _dead_lettered(self, telemetry: events.DeadLettered) -> None:
        self._add("finished", 1, "dead", telemetry.type)
        self._add("dead_lettered", 1, telemetry.cause)

    def _attempt_failed(self, telemetry: events.ProcessingFailed) -> None:
        self._add("attempts_failed", 1, telemetry.reason, telemetry.type)

    def _handler_ran(self, telemetry: events.HandlerRan) -> None:
        self._observe("handler_seconds", telemetry.took_s, telemetry.handler)

    def _station_took(self, telemetry: events.StationTook) -> None:
        self._observe("station_seconds", telemetry.took_s, telemetry.station)


_ACCESS = {401: "unauthorized", 403: "forbidden_origin", 421: "unknown_host"}
"""The label of a refused access, by HTTP status."""
_COUNTED: dict[type[TelemetryEvent], str] = {
    events.ConnectionRefused: "connections_refused",
    events.JournalFailed: "journal_failures",
    events.Received: "received",
    events.InsertFailed: "database_failures",
    events.DeadLettersLogged: "dead_letters_logged",
    events.DeadLetterLogFailed: "dead_letter_log_failures",
    events.Sent: "dead_letters_sent",
    events.ForwardingRefused: "dead_letters_refused",
    events.Replayed: "replayed",
    events.ReplayFailed: "failed_replays",
    events.DeadLettersDiscarded: "discarded",
    events.Restored: "restored",
    events.ConflictReplayed: "conflicts_replayed",
    events.ConflictReplayFailed: "failed_conflict_replays",
    events.ConflictsDiscarded: "conflicts_discarded",
    events.Pruned: "pruned",
    events.GapNoted: "gaps",
    events.Quarantined: "quarantined",
    events.EmissionsRelayed: "emitted",
    events.EmissionDropped: "refused_emissions",
    events.LoopBlocked: "loop_blocked",
    events.ForeignValues: "foreign_values",
    events.TakenOver: "taken_over",
    events.Reconnecting: "reconnects",
}
"""Counters without labels, by telemetry event."""
_COUNTS: dict[type[TelemetryEvent], Callable[..., None]] = {
    events.Accepted: Metrics._accepted,
    events.PublicationRefused: Metrics._refused,
    events.AccessRefused: Metrics._access_refused,
    events.Persisted: Metrics._persisted,
    events.Duplicates: Metrics._duplicates,
    events.ConflictsFound: Metrics._conflicts,
    events.DeadLettered: Metrics._dead_lettered,
    events.ProcessingFailed: Metrics._attempt_failed,
    events.HandlerRan: Metrics._handler_ran,
    events.StationTook: Metrics._station_took,
}


def all_of(*recorders: Record) -> Record:
    """Return a function that calls each of `recorders`."""

    def record(telemetry: TelemetryEvent) -> None:
        for recorder in recorders:
            recorder(telemetry)

    return record
