"""Telemetry events become metrics of the catalogue; each process shows its own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from oncecast.core import telemetry as events
from oncecast.core.health import Health, Part, Status
from oncecast.observe.catalogue import CATALOGUE, OTHER, TYPES_MAX, Process
from oncecast.observe.metrics import Metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    """The samples of `/metrics` by name and labels."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((f"oncecast_{name}", tuple(sorted(labels.items()))))


@pytest.mark.parametrize("process", ["producer", "listener"])
def test_a_process_shows_all_of_its_metrics_and_no_others(process: Process) -> None:
    text = Metrics(process).text().decode()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE oncecast_")}
    assert shown == {metric.name for metric in CATALOGUE if process in metric.processes}


def test_accepted_events_are_counted_and_their_commits_measured() -> None:
    metrics = Metrics("producer")
    metrics.record(events.Accepted(3, "a", "c", bytes=900, commit_s=0.004))
    found = samples(metrics)
    assert (value(found, "accepted_total"), value(found, "accepted_bytes_total")) == (3, 900)
    assert (value(found, "commit_seconds_count"), value(found, "commit_seconds_sum")) == (1, 0.004)
    assert (
        value(found, "commit_seconds_bucket", le="0.0025"),
        value(found, "commit_seconds_bucket", le="0.005"),
    ) == (0, 1)
    assert value(found, "commit_events_bucket", le="5") == 1


def test_ended_events_are_counted_by_outcome_and_type() -> None:
    metrics = Metrics("listener")
    metrics.record(events.Persisted(3, "a", "c", {"order": 2, "tick": 1}, waited_s=((0.02, 2), (7.0, 1))))
    metrics.record(events.Duplicates(1, "d", "d", {"order": 1}))
    metrics.record(events.ConflictsFound(1, "e", "e", {"order": 1}))
    metrics.record(events.DeadLettered("f", "ValueError: x", "retries", "order"))
    found = samples(metrics)
    outcomes = {
        outcome: value(found, "finished_total", outcome=outcome, type="order") for outcome in ("stored", "duplicate")
    }
    assert outcomes == {"stored": 2, "duplicate": 1}
    assert value(found, "finished_total", outcome="conflict", type="order") == 1
    assert value(found, "finished_total", outcome="dead", type="order") == 1
    assert value(found, "dead_lettered_total", cause="retries") == 1
    assert value(found, "accept_to_stored_seconds_bucket", le="0.025") == 2
    assert value(found, "accept_to_stored_seconds_count") == 3


def test_what_another_listener_processed_is_no_duplicate() -> None:
    metrics = Metrics("listener")
    metrics.record(events.Duplicates(8, "a", "h", elsewhere=True))
    found = samples(metrics)
    assert value(found, "finished_elsewhere_total") == 8
    assert not [name for name, _ in found if name == "oncecast_finished_total"]


def test_further_types_are_counted_together() -> None:
    metrics = Metrics("listener")
    for number in range(TYPES_MAX + 5):
        metrics.record(events.Persisted(1, "a", "a", {f"type-{number}": 1}))
    metrics.record(events.Persisted(1, "a", "a", {"type-0": 1}))
    found = samples(metrics)
    assert value(found, "finished_total", outcome="stored", type=OTHER) == 5
    assert value(found, "finished_total", outcome="stored", type="type-0") == 2
    assert len([name for name, _ in found if name == "oncecast_finished_total"]) == TYPES_MAX + 1


def test_known_labels_are_shown_before_anything_happens() -> None:
    found = samples(Metrics("producer"))
    assert value(found, "refused_total", reason="journal_full") == 0


def test_failed_attempts_and_durations_have_their_labels() -> None:
    metrics = Metrics("listener")
    metrics.record(events.ProcessingFailed("a", "x", 2, type="order", reason="timeout"))
    metrics.record(events.HandlerRan("ship", 0.3))
    metrics.record(events.StationTook("claim", 0.002))
    found = samples(metrics)
    assert value(found, "attempts_failed_total", reason="timeout", type="order") == 1
    assert value(found, "handler_seconds_sum", handler="ship") == 0.3
    assert value(found, "station_seconds_count", station="claim") == 1


def test_a_gauge_without_a_value_has_no_sample() -> None:
    metrics = Metrics("listener")
    metrics.show("retrying", lambda: None)
    metrics.show("in_flight", lambda: 7)
    metrics.show("breaker_state", lambda: {("redis",): 2.0})
    found = samples(metrics)
    assert value(found, "retrying") is None
    assert value(found, "in_flight") == 7
    assert value(found, "breaker_state", dependency="redis") == 2


def test_health_is_that_of_the_moment_and_only_dependencies_are_up_or_down() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    parts = {name: Part(status=Status.OK, since=at) for name in ("process", "listeners", "groups")}
    health = Health(status=Status.DOWN, since=at, parts={**parts, "journal": Part(status=Status.DOWN, since=at)})
    metrics = Metrics("producer")
    metrics.show_health(lambda: health)
    found = samples(metrics)
    assert (value(found, "health", status="down"), value(found, "health", status="ok")) == (1, 0)
    assert value(found, "dependency_up", dependency="journal") == 0
    assert value(found, "dependency_up", dependency="listeners") is None
