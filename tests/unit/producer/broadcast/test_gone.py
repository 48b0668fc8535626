"""Listeners that have gone are listed until they return, are dismissed, or a while has passed."""

from __future__ import annotations

from oncecast.core.health import Status
from oncecast.core.wire import ListenerReport
from oncecast.producer.broadcast.gone import GONE_KEPT_S, GONE_MAX, STOPPED_KEPT_S, GoneListeners
from tests.support.clock import ManualClock

A, B = ("shop", "a"), ("shop", "b")
REPORT = ListenerReport(stored=7)


def names(gone: GoneListeners) -> list[str]:
    return [each.instance for each in gone.listed()]


def test_one_that_lost_its_connection_is_down_and_one_that_stopped_is_draining() -> None:
    gone = GoneListeners(ManualClock())
    gone.left(A, REPORT, has_stopped=False)
    gone.left(B, REPORT, has_stopped=True)
    killed, stopped = gone.listed()
    assert (killed.health.status, stopped.health.status) == (Status.DOWN, Status.DRAINING)
    assert killed.health.remedy
    assert killed.report.stored == 7


def test_one_that_returns_or_is_dismissed_is_listed_no_longer() -> None:
    gone = GoneListeners(ManualClock())
    for member in (A, B):
        gone.left(member, REPORT, has_stopped=False)
    gone.joined(A)
    assert names(gone) == ["b"]
    assert [gone.dismiss(B), gone.dismiss(B)] == [True, False]
    assert names(gone) == []


def test_stopped_listeners_are_forgotten_soon_and_others_later() -> None:
    clock = ManualClock()
    gone = GoneListeners(clock)
    gone.left(A, REPORT, has_stopped=True)
    gone.left(B, REPORT, has_stopped=False)
    clock.now_s += STOPPED_KEPT_S
    assert names(gone) == ["b"]
    clock.now_s += GONE_KEPT_S
    assert names(gone) == []


def test_the_number_of_listed_listeners_is_limited() -> None:
    gone = GoneListeners(ManualClock())
    for number in range(GONE_MAX + 3):
        gone.left(("shop", str(number)), REPORT, has_stopped=False)
    assert names(gone) == [str(number) for number in range(3, GONE_MAX + 3)]


def test_a_listener_with_a_new_name_takes_the_place_of_those_that_have_gone_of_its_group() -> None:
    gone = GoneListeners(ManualClock())
    gone.left(A, REPORT, has_stopped=False)
    gone.left(("other", "x"), REPORT, has_stopped=False)
    gone.joined(("shop", "new"))
    assert [(each.instance, each.health.status) for each in gone.listed()] == [
        ("a", Status.DRAINING),
        ("x", Status.DOWN),
    ]
