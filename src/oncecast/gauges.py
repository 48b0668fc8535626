"""Gauges: what a running producer or listener shows at the moment of a scrape."""

from __future__ import annotations

from functools import partial

from oncecast.core.breaker import BreakerState
from oncecast.core.ports import Journal
from oncecast.listener.background.open_work_counts import OpenWorkCounts
from oncecast.listener.service import ListenerService
from oncecast.observe.metrics import Metrics
from oncecast.producer.app import Producer
from oncecast.producer.retention import Retention

_BREAKER_STATES = (BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN)
"""By the value of the metric."""


def show_producer(metrics: Metrics, producer: Producer, journal: Journal) -> None:
    """Show a producer and its journal."""
    retention = producer.retention
    metrics.show_health(producer.look)
    metrics.show("journal_last_offset", lambda: journal.last)
    metrics.show("journal_bytes", lambda: journal.used_bytes)
    metrics.show("journal_used_ratio", lambda: retention.journal_status().unsettled_percent / 100)
    metrics.show("journal_headroom_seconds", retention.headroom_s)
    metrics.show("subscribers", producer.subscribers)
    for name, field, labels in (
        ("group_lag_events", "behind", (journal.name,)),
        ("group_listeners", "connected", ()),
        ("group_oldest_unfinished_seconds", "oldest_unfinished_s", ()),
        ("cursor_saved_timestamp_seconds", "moved_at", (journal.name,)),
    ):
        metrics.show(name, partial(_by_group, retention, field, labels))


def _by_group(retention: Retention, field: str, labels: tuple[str, ...]) -> dict[tuple[str, ...], float]:
    """Return a number of each group that events are kept for."""
    return {
        (group.name, *labels): float(value)
        for group in retention.groups_status()
        if not (group.forgotten or group.expired) and (value := getattr(group, field)) is not None
    }


def show_listener(metrics: Metrics, service: ListenerService, open_work: OpenWorkCounts) -> None:
    """Show a listener and the open work of its group."""
    metrics.show_health(service.current_health)
    metrics.show("in_flight", lambda: service.pipeline.in_flight)
    metrics.show("in_flight_bytes", lambda: sum(feed.used_bytes for feed in service.feeds))
    handlers_max = service.settings.attempts.handler_concurrency
    metrics.show("handlers_running", lambda: min(handlers_max, service.pipeline.handlers_running))
    metrics.show("handlers_max", lambda: handlers_max)
    metrics.show("standby", lambda: float(service.standby.reason is not None))
    metrics.show(
        "breaker_state",
        lambda: {
            (name,): float(_BREAKER_STATES.index(gate.breaker.state))
            for name, gate in (("redis", service.redis), ("database", service.database))
        },
    )
    group = service.settings.group
    if (forwarder := service.forwarder) is not None:
        metrics.show("dead_letters_unsent", lambda: _of_group(group, forwarder.unforwarded))
    for name, field in (
        ("retrying", "retrying"),
        ("dead_letters_open", "dead_letters"),
        ("dead_letters_oldest_seconds", "dead_letters_oldest_s"),
        ("conflicts_open", "conflicts"),
        ("outbox_pending", "emissions"),
        ("outbox_oldest_seconds", "emissions_oldest_s"),
    ):
        metrics.show(name, partial(_of_open_work, open_work, group, field))


def _of_open_work(open_work: OpenWorkCounts, group: str, field: str) -> dict[tuple[str, ...], float]:
    return _of_group(group, None if open_work.newest is None else getattr(open_work.newest, field))


def _of_group(group: str, number: float | None) -> dict[tuple[str, ...], float]:
    return {} if number is None else {(group,): float(number)}
