"""The alert rules and the dashboard for Oncecast's metrics, written to deploy/ by `make reference`.

Each alert has series with which it fires: `promtool test rules` checks that. A healthy system has no alert.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from oncecast.observe.catalogue import CATALOGUE

NOTE = "Written by `make reference` from tools/monitoring.py: do not edit."
PAGE, TICKET = "page", "ticket"
"""Severities: somebody must act now, or in working hours."""
DEPLOY = Path(__file__).parents[1] / "deploy"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: what it says, when it fires, what to do, and series of one sample a minute with which it fires."""

    name: str
    expr: str
    for_: str
    severity: str
    summary: str
    remedy: str
    series: dict[str, str]


def _p99(histogram: str) -> str:
    return f"histogram_quantile(0.99, sum by (le, instance) (rate(oncecast_{histogram}_bucket[5m])))"


def _slow(histogram: str) -> dict[str, str]:
    """Series of a histogram whose observations are all above its largest bound."""
    return {
        f'oncecast_{histogram}_bucket{{instance="a",le="3600"}}': "0x60",
        f'oncecast_{histogram}_bucket{{instance="a",le="+Inf"}}': "0+60x60",
    }


_GROUP = 'group="shop"'

ALERTS = (
    Alert(
        "OncecastDown",
        'up{job="oncecast"} == 0',
        "1m",
        PAGE,
        "The process {{ $labels.instance }} does not answer Prometheus.",
        "Look at its log, and whether it runs.",
        {'up{job="oncecast",instance="a"}': "0x60"},
    ),
    Alert(
        "OncecastNotWorking",
        'oncecast_health{status="down"} == 1',
        "2m",
        PAGE,
        "{{ $labels.instance }} does not do its work.",
        "Its /health says why, and what to do.",
        {'oncecast_health{instance="a",status="down"}': "1x60"},
    ),
    Alert(
        "OncecastPublishingRefused",
        'increase(oncecast_refused_total{reason=~"journal_full|disk"}[5m]) > 0',
        "1m",
        PAGE,
        "{{ $labels.instance }} refuses events: {{ $labels.reason }}.",
        "For journal_full: `oncecast groups list` shows who is behind. For disk: check the disk of JOURNAL_PATH.",
        {'oncecast_refused_total{instance="a",reason="journal_full"}': "0+1x60"},
    ),
    Alert(
        "OncecastNothingAccepted",
        "sum(rate(oncecast_accepted_total[15m])) == 0 and sum(rate(oncecast_accepted_total[15m] offset 1h)) > 0",
        "15m",
        TICKET,
        "No event has been accepted for 15 minutes; an hour ago there were some.",
        "Check the applications that publish, and the way to the producers.",
        {'oncecast_accepted_total{instance="a"}': "0+60x30 1800x120"},
    ),
    Alert(
        "OncecastCommitsSlow",
        f"{_p99('commit_seconds')} > 0.5",
        "10m",
        TICKET,
        "{{ $labels.instance }} needs more than 0.5 s to write events to its disk (99th percentile).",
        "Check the load of the disk of JOURNAL_PATH.",
        _slow("commit_seconds"),
    ),
    Alert(
        "OncecastJournalFilling",
        "oncecast_journal_used_ratio > 0.7",
        "5m",
        TICKET,
        "The journal of {{ $labels.instance }} is {{ $value | humanizePercentage }} full of unprocessed events.",
        "Start listeners of the group that is behind (`oncecast groups list`), or raise JOURNAL_MAX_BYTES.",
        {'oncecast_journal_used_ratio{instance="a"}': "0.75x60"},
    ),
    Alert(
        "OncecastJournalNearlyFull",
        "oncecast_journal_used_ratio > 0.9",
        "1m",
        PAGE,
        "The journal of {{ $labels.instance }} is {{ $value | humanizePercentage }} full: soon it refuses events.",
        "Start listeners of the group that is behind (`oncecast groups list`), or raise JOURNAL_MAX_BYTES.",
        {'oncecast_journal_used_ratio{instance="a"}': "0.95x60"},
    ),
    Alert(
        "OncecastGroupLate",
        "max by (group) (oncecast_group_oldest_unfinished_seconds) > 60",
        "5m",
        TICKET,
        "The group {{ $labels.group }} is {{ $value | humanizeDuration }} late.",
        "`oncecast status` shows its listeners. Look for slow handlers, retries, and the health of PostgreSQL.",
        {f"oncecast_group_oldest_unfinished_seconds{{{_GROUP}}}": "120x60"},
    ),
    Alert(
        "OncecastGroupVeryLate",
        "max by (group) (oncecast_group_oldest_unfinished_seconds) > 900",
        "5m",
        PAGE,
        "The group {{ $labels.group }} is {{ $value | humanizeDuration }} late.",
        "`oncecast status` shows its listeners. Look for slow handlers, retries, and the health of PostgreSQL.",
        {f"oncecast_group_oldest_unfinished_seconds{{{_GROUP}}}": "1000x60"},
    ),
    Alert(
        "OncecastGroupWithoutListeners",
        "oncecast_group_lag_events > 0 and on (group, instance) oncecast_group_listeners == 0",
        "2m",
        PAGE,
        "The group {{ $labels.group }} has events to process, and no listener.",
        "Start its listeners; or, if it is not needed any more: oncecast groups forget {{ $labels.group }}",
        {
            f"oncecast_group_lag_events{{{_GROUP}}}": "7x60",
            f"oncecast_group_listeners{{{_GROUP}}}": "0x60",
        },
    ),
    Alert(
        "OncecastCursorStuck",
        "time() - oncecast_cursor_saved_timestamp_seconds > 120"
        " and on (group, journal, instance) oncecast_group_lag_events > 0",
        "1m",
        TICKET,
        "The saved cursor of the group {{ $labels.group }} has not moved for two minutes, although it is behind.",
        "One event may hold it back: `oncecast events --retrying` shows events that wait for an attempt.",
        {
            f"oncecast_group_lag_events{{{_GROUP}}}": "7x60",
            f"oncecast_cursor_saved_timestamp_seconds{{{_GROUP}}}": "0x60",
        },
    ),
    Alert(
        "OncecastStoringSlow",
        f"{_p99('accept_to_stored_seconds')} > 10",
        "10m",
        TICKET,
        "Events are stored more than 10 s after they were accepted (99th percentile at {{ $labels.instance }}).",
        "Compare oncecast_station_seconds and oncecast_handler_seconds: they show where the time goes.",
        _slow("accept_to_stored_seconds"),
    ),
    Alert(
        "OncecastHandlersBusy",
        "min_over_time(oncecast_handlers_running[10m]) >= oncecast_handlers_max",
        "10m",
        TICKET,
        "All places for handlers at {{ $labels.instance }} have been in use for 10 minutes.",
        "Make handlers faster, start more listeners, or raise HANDLER_CONCURRENCY and DB_POOL.",
        {'oncecast_handlers_running{instance="a"}': "8x60", 'oncecast_handlers_max{instance="a"}': "8x60"},
    ),
    Alert(
        "OncecastAttemptsFail",
        'sum(increase(oncecast_attempts_failed_total{reason!~"retry|rejected"}[10m])) > 5 and'
        ' sum(rate(oncecast_attempts_failed_total{reason!~"retry|rejected"}[10m]))'
        " > 0.05 * (sum(rate(oncecast_finished_total[10m])) or vector(0))",
        "10m",
        TICKET,
        "More than 5 % of the attempts fail.",
        "The log has each error; the labels reason and type of oncecast_attempts_failed_total say where.",
        {
            'oncecast_attempts_failed_total{reason="handler",type="order"}': "0+6x60",
            'oncecast_finished_total{outcome="stored",type="order"}': "0+60x60",
        },
    ),
    Alert(
        "OncecastRetryingGrows",
        "max by (group) (oncecast_retrying) > 10"
        " and max by (group) (oncecast_retrying) > max by (group) (oncecast_retrying offset 15m)",
        "5m",
        TICKET,
        "{{ $value }} events of {{ $labels.group }} wait for another attempt, more than 15 minutes ago.",
        "`oncecast events --retrying` shows them with their errors.",
        {'oncecast_retrying{instance="a",group="shop"}': "0+1x60"},
    ),
    Alert(
        "OncecastDeadLettersGrow",
        "max by (group) (oncecast_dead_letters_open) > max by (group) (oncecast_dead_letters_open offset 15m)",
        "5m",
        TICKET,
        "The group {{ $labels.group }} has {{ $value }} open dead letters, more than 15 minutes ago.",
        "`oncecast dead-letters causes` groups them by cause. After a repair: oncecast dead-letters replay",
        {'oncecast_dead_letters_open{instance="a",group="shop"}': "0+1x60"},
    ),
    Alert(
        "OncecastManyDeadLetters",
        "sum(rate(oncecast_dead_lettered_total[5m])) * 60 > 10",
        "1m",
        PAGE,
        "{{ $value | humanize }} events a minute become dead letters.",
        "`oncecast dead-letters causes` groups them by cause. Was a new version deployed?",
        {'oncecast_dead_lettered_total{instance="a",cause="retries"}': "0+20x60"},
    ),
    Alert(
        "OncecastDeadLettersNotSent",
        "max by (group) (oncecast_dead_letters_unsent) > 0",
        "15m",
        TICKET,
        "{{ $value }} dead letters of {{ $labels.group }} have not reached the broker.",
        "Check the broker at DEAD_LETTER_URL. The dead letters are safe in PostgreSQL.",
        {'oncecast_dead_letters_unsent{instance="a",group="shop"}': "3x60"},
    ),
    Alert(
        "OncecastConflicts",
        "max by (group) (oncecast_conflicts_open) > 0",
        "1m",
        TICKET,
        "{{ $value }} events of {{ $labels.group }} repeat an id with other content; they are not processed.",
        "`oncecast conflicts list` shows them. A publisher draws ids that are not unique.",
        {'oncecast_conflicts_open{instance="a",group="shop"}': "2x60"},
    ),
    Alert(
        "OncecastEmittedEventsWait",
        "max by (group) (oncecast_outbox_oldest_seconds) > 60",
        "5m",
        TICKET,
        "Emitted events of {{ $labels.group }} have waited for {{ $value | humanizeDuration }}.",
        "Check whether the producers accept events, and PUBLISH_TOKEN of the listeners.",
        {'oncecast_outbox_oldest_seconds{instance="a",group="shop"}': "90x60"},
    ),
    Alert(
        "OncecastPostgresDown",
        'oncecast_dependency_up{dependency="database"} == 0',
        "1m",
        PAGE,
        "{{ $labels.instance }} cannot use PostgreSQL: events wait in the journals.",
        "Check PostgreSQL and DATABASE_URL; `oncecast status` shows the error.",
        {'oncecast_dependency_up{instance="a",dependency="database"}': "0x60"},
    ),
    Alert(
        "OncecastRedisDown",
        'oncecast_dependency_up{dependency="redis"} == 0',
        "10m",
        TICKET,
        "{{ $labels.instance }} cannot use Redis: every listener works on every event, and PostgreSQL decides.",
        "Check Redis and REDIS_URL. No event is lost or processed twice.",
        {'oncecast_dependency_up{instance="a",dependency="redis"}': "0x60"},
    ),
    Alert(
        "OncecastEventsQuarantined",
        "increase(oncecast_quarantined_total[10m]) > 0",
        "1m",
        TICKET,
        "Processes die while they handle some events, which {{ $labels.instance }} runs alone now.",
        "The log names the events. Look for crashes, and for the memory limit of the listeners.",
        {'oncecast_quarantined_total{instance="a"}': "0+1x60"},
    ),
    Alert(
        "OncecastReconnects",
        "increase(oncecast_reconnects_total[1h]) > 10",
        "1m",
        TICKET,
        "{{ $labels.instance }} has tried to reconnect to a producer {{ $value | humanize }} times in an hour.",
        "Check the network, proxies with short time-outs, and the producer's log.",
        {'oncecast_reconnects_total{instance="a"}': "0+1x60"},
    ),
    Alert(
        "OncecastGap",
        "increase(oncecast_gaps_total[15m]) > 0",
        "0m",
        PAGE,
        "A journal deleted events before {{ $labels.instance }} had read them.",
        "The table gaps and `oncecast status` name the offsets. Raise JOURNAL_MAX_AGE and JOURNAL_MAX_BYTES.",
        {'oncecast_gaps_total{instance="a"}': "0x10 1x50"},
    ),
    Alert(
        "OncecastStandby",
        "oncecast_standby == 1",
        "10m",
        TICKET,
        "{{ $labels.instance }} is on standby: its application lacks handlers of the group.",
        "Deploy the same application to all listeners; FORCE_HANDLERS=1 if the handlers were removed on purpose.",
        {'oncecast_standby{instance="a"}': "1x60"},
    ),
    Alert(
        "OncecastEventLoopSlow",
        f"{_p99('event_loop_delay_seconds')} > 0.25",
        "10m",
        TICKET,
        "The event loop of {{ $labels.instance }} is late by more than 0.25 s (99th percentile).",
        "A handler blocks it, or the machine is overloaded: use plain `def` for blocking code.",
        _slow("event_loop_delay_seconds"),
    ),
    Alert(
        "OncecastVersionsDiffer",
        "count(count by (version) (oncecast_build_info)) > 1",
        "1h",
        TICKET,
        "Processes of {{ $value }} versions of Oncecast have run for an hour.",
        "Finish the upgrade.",
        {'oncecast_build_info{version="1"}': "1x120", 'oncecast_build_info{version="2"}': "1x120"},
    ),
)
HEALTHY = {
    'up{job="oncecast",instance="a"}': "1x60",
    'oncecast_health{instance="a",status="ok"}': "1x60",
    'oncecast_health{instance="a",status="down"}': "0x60",
    'oncecast_accepted_total{instance="a"}': "0+600x60",
    'oncecast_refused_total{instance="a",reason="journal_full"}': "0x60",
    'oncecast_journal_used_ratio{instance="a"}': "0.1x60",
    f"oncecast_group_oldest_unfinished_seconds{{{_GROUP}}}": "0.2x60",
    f"oncecast_group_lag_events{{{_GROUP}}}": "5x60",
    f"oncecast_group_listeners{{{_GROUP}}}": "2x60",
    f"oncecast_cursor_saved_timestamp_seconds{{{_GROUP}}}": "0+60x60",
    'oncecast_handlers_running{instance="a"}': "3x60",
    'oncecast_handlers_max{instance="a"}': "8x60",
    'oncecast_finished_total{outcome="stored",type="order"}': "0+600x60",
    'oncecast_attempts_failed_total{reason="handler",type="order"}': "0+3x60",
    'oncecast_dead_letters_open{instance="a",group="shop"}': "4x60",
    'oncecast_retrying{instance="a",group="shop"}': "2x60",
    'oncecast_dependency_up{instance="a",dependency="database"}': "1x60",
    'oncecast_dependency_up{instance="a",dependency="redis"}': "1x60",
    'oncecast_standby{instance="a"}': "0x60",
    'oncecast_build_info{version="1"}': "1x60",
}
"""Series of a system without any alert."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph: queries with their legends."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    width: int = 12


def _rate(name: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate(oncecast_{name}[$__rate_interval]))"


def _quantile(share: float, histogram: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate(oncecast_{histogram}_bucket[$__rate_interval])))"


PANELS = (
    Panel(
        "How late the groups are",
        "s",
        [("max by (group) (oncecast_group_oldest_unfinished_seconds)", "{{group}}")],
    ),
    Panel(
        "Events in and out",
        "ops",
        [
            (_rate("accepted_total"), "accepted"),
            (_rate('finished_total{outcome="stored"}'), "stored"),
            (_rate("dead_lettered_total"), "dead"),
        ],
    ),
    Panel(
        "From acceptance to the row",
        "s",
        [
            (_quantile(0.5, "accept_to_stored_seconds"), "median"),
            (_quantile(0.99, "accept_to_stored_seconds"), "99 %"),
        ],
    ),
    Panel("Lag", "short", [("max by (group) (oncecast_group_lag_events)", "{{group}}")]),
    Panel("Outcomes", "ops", [(_rate("finished_total", "outcome"), "{{outcome}}")]),
    Panel("Failed attempts", "ops", [(_rate("attempts_failed_total", "reason, type"), "{{type}}: {{reason}}")]),
    Panel(
        "Open work",
        "short",
        [
            ("max by (group) (oncecast_dead_letters_open)", "dead letters of {{group}}"),
            ("max by (group) (oncecast_retrying)", "retrying events of {{group}}"),
            ("max by (group) (oncecast_conflicts_open)", "conflicts of {{group}}"),
            ("max by (group) (oncecast_outbox_pending)", "emitted events of {{group}}"),
        ],
    ),
    Panel("Duration of handlers, 99 %", "s", [(_quantile(0.99, "handler_seconds", "handler"), "{{handler}}")]),
    Panel("Duration of steps, 99 %", "s", [(_quantile(0.99, "station_seconds", "station"), "{{station}}")]),
    Panel(
        "Handlers running",
        "short",
        [("oncecast_handlers_running", "{{instance}}"), ("max(oncecast_handlers_max)", "maximum")],
    ),
    Panel(
        "Journal",
        "percentunit",
        [("oncecast_journal_used_ratio", "unprocessed, of the maximum: {{instance}}")],
    ),
    Panel("Commits of the journal, 99 %", "s", [(_quantile(0.99, "commit_seconds"), "99 %")]),
    Panel("Refused publications", "ops", [(_rate("refused_total", "reason"), "{{reason}}")]),
    Panel("Dependencies", "short", [("oncecast_dependency_up", "{{dependency}} at {{instance}}")]),
    Panel(
        "Members",
        "short",
        [
            ("max by (group) (oncecast_group_listeners)", "listeners of {{group}}"),
            ("max by (kind) (oncecast_subscribers)", "{{kind}}s connected"),
            ("sum(oncecast_standby)", "on standby"),
        ],
    ),
    Panel(
        "Recoveries",
        "short",
        [
            ("sum(increase(oncecast_taken_over_total[$__rate_interval]))", "events taken over"),
            ("sum(increase(oncecast_reconnects_total[$__rate_interval]))", "reconnects"),
            ("sum(increase(oncecast_quarantined_total[$__rate_interval]))", "quarantined attempts"),
            ("sum(increase(oncecast_gaps_total[$__rate_interval]))", "gaps"),
        ],
    ),
    Panel("Memory", "bytes", [("process_resident_memory_bytes", "{{instance}}")]),
    Panel(
        "CPU",
        "percentunit",
        [("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}")],
    ),
    Panel(
        "Delay of the event loop, 99 %",
        "s",
        [(_quantile(0.99, "event_loop_delay_seconds", "instance"), "{{instance}}")],
    ),
    Panel("Events in flight", "bytes", [("oncecast_in_flight_bytes", "{{instance}}")]),
)
_SUFFIXES = ("_bucket", "_count", "_sum")


def names_in(expr: str) -> set[str]:
    """Return the names of Oncecast's metrics in a query, without the suffixes of histograms."""
    found = re.findall(r"\boncecast_\w+", expr)
    return {next((name.removesuffix(s) for s in _SUFFIXES if name.endswith(s)), name) for name in found}


def alert_rules() -> str:
    """Return deploy/prometheus/alerts.yml."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.for_,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.remedy},
        }
        for alert in ALERTS
    ]
    return f"# {NOTE}\n{_yaml({'groups': [{'name': 'oncecast', 'rules': rules}]})}"


def alert_tests() -> str:
    """Return deploy/prometheus/alerts_test.yml."""
    tests = [_test(f"{alert.name} fires", alert.series, alert.name) for alert in ALERTS]
    tests.append(_test("a healthy system is quiet", HEALTHY, None))
    return f"# {NOTE}\n{_yaml({'rule_files': ['alerts.yml'], 'evaluation_interval': '1m', 'tests': tests})}"


def _test(name: str, series: dict[str, str], alert: str | None) -> dict[str, Any]:
    """Return a test that after 100 minutes, or 40 of a shorter series, the alert has fired; None for no alert."""
    minutes = 100 if any("120" in values for values in series.values()) else 40
    shown = 'ALERTS{alertstate="firing"}' if alert is None else f'ALERTS{{alertstate="firing",alertname="{alert}"}}'
    expected = [] if alert is None else [{"labels": f'{{alertname="{alert}"}}', "value": 1}]
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count by (alertname) (max_over_time({shown}[{minutes}m]))",
                "eval_time": f"{minutes}m",
                "exp_samples": expected,
            }
        ],
    }


def dashboard() -> str:
    """Return deploy/grafana/oncecast.json."""
    panels, left, top = list[dict[str, Any]](), 0, 0
    for number, panel in enumerate(PANELS, 1):
        if left + panel.width > 24:
            left, top = 0, top + 8
        panels.append(_panel(panel, number, left, top))
        left += panel.width
    shown = {
        "title": "Oncecast",
        "uid": "oncecast",
        "description": NOTE,
        "tags": ["oncecast"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }
    return json.dumps(shown, indent=2) + "\n"


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": source, "expr": expr, "legendFormat": legend}
            for n, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, width=1_000, allow_unicode=True)
    return text


def unknown_names() -> set[str]:
    """Return names in alerts, tests and panels that the catalogue does not have."""
    known = {metric.name for metric in CATALOGUE}
    queries = [alert.expr for alert in ALERTS] + [expr for panel in PANELS for expr, _ in panel.queries]
    series = [one for alert in ALERTS for one in alert.series] + list(HEALTHY)
    return {name for query in [*queries, *series] for name in names_in(query)} - known


def files() -> dict[Path, str]:
    """Return the text of each file."""
    return {
        DEPLOY / "prometheus" / "alerts.yml": alert_rules(),
        DEPLOY / "prometheus" / "alerts_test.yml": alert_tests(),
        DEPLOY / "grafana" / "oncecast.json": dashboard(),
    }


def main() -> None:
    """Write all files."""
    for file, text in files().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
