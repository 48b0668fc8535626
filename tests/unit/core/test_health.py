"""The whole has the status of its worst part, and remembers since when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from oncecast.core.health import FINE, PROCESS, Board, Finding, Health, Status

BEGIN = datetime(2026, 1, 2, tzinfo=UTC)


class Parts:
    """What the checks find, and the time."""

    def __init__(self, **found: Finding) -> None:
        self.found = {PROCESS: FINE, **found}
        self.at = BEGIN
        checks = {name: lambda name=name: self.found[name] for name in self.found}
        self.board = Board(checks, essential=(PROCESS, "database"), now=lambda: self.at)

    def check(self, after_s: float = 0.0, **found: Finding) -> Health:
        self.at += timedelta(seconds=after_s)
        self.found |= found
        return self.board.check()


def test_the_whole_is_ok_since_the_first_check() -> None:
    parts = Parts(database=FINE)
    parts.check()
    health = parts.check(after_s=60)
    assert (health.status, health.since, health.reason, health.remedy) == (Status.OK, BEGIN, None, None)


def test_a_part_that_is_not_essential_makes_the_whole_degraded_but_is_down_itself() -> None:
    health = Parts(redis=Finding(Status.DOWN, "gone", "start it")).check()
    assert (health.status, health.reason, health.remedy) == (Status.DEGRADED, "redis: gone", "start it")
    assert health.parts["redis"].status is Status.DOWN
    assert health.status.is_ready


def test_the_worst_part_is_the_whole_and_draining_is_worse_than_down() -> None:
    parts = Parts(redis=Finding(Status.DOWN, "gone"), database=Finding(Status.DOWN, "frozen"))
    assert parts.check().reason == "database: frozen"
    health = parts.check(process=Finding(Status.DRAINING, "it is stopping"))
    assert (health.status, health.reason, health.status.is_ready) == (Status.DRAINING, "it is stopping", False)


def test_since_is_when_the_status_changed_not_its_reason() -> None:
    parts = Parts(database=FINE)
    parts.check()
    assert parts.check(after_s=10, database=Finding(Status.DOWN, "refused")).since == BEGIN + timedelta(seconds=10)
    later = parts.check(after_s=10, database=Finding(Status.DOWN, "frozen"))
    assert (later.since, later.reason) == (BEGIN + timedelta(seconds=10), "database: frozen")
    assert parts.check(after_s=10, database=FINE).since == BEGIN + timedelta(seconds=30)


def test_a_status_of_a_later_version_is_read_as_degraded() -> None:
    health = msgspec.json.encode(Parts().check()).replace(b'"status":"ok"', b'"status":"sleepy"')
    assert msgspec.json.decode(health, type=Health).status is Status.DEGRADED
