"""The judge is fed with histories that are good, and with each that is not, and says so."""

from __future__ import annotations

from typing import Any

import pytest

from oncecast.chaos.judge import Evidence, Verdict, judge

GOOD: dict[str, Any] = {
    "tried": {"tick:1", "tick:2", "tick:3", "counted:1", "flaky:1", "flaky:2", "failing:1", "swallowing:1"},
    "acknowledged": {"tick:1", "tick:2", "counted:1", "flaky:1", "flaky:2", "failing:1", "swallowing:1"},
    "rows": {
        "tick:1": "stored",
        "tick:2": "stored",
        "counted:1": "stored",
        "flaky:1": "stored",
        "flaky:2": "dead",
        "failing:1": "dead",
        "swallowing:1": "dead",
    },
    "effects": {"counted:1": 1, "flaky:1": 1},
}


def verdict(**changes: dict[str, Any]) -> Verdict:
    """Of the good history with members of it changed; None takes one away."""
    evidence = {name: dict(value) if isinstance(value, dict) else set(value) for name, value in GOOD.items()}
    for name, members in changes.items():
        for member, value in members.items():
            if isinstance(evidence[name], set):
                evidence[name].add(member)
            elif value is None:
                del evidence[name][member]
            else:
                evidence[name][member] = value
    return judge(Evidence(**evidence))


def test_a_good_history_is_valid_and_counted() -> None:
    found = verdict()
    assert found.is_valid
    assert (found.attempted, found.acknowledged, found.stored, found.dead) == (8, 7, 4, 3)


def test_what_was_not_acknowledged_may_be_there_or_not() -> None:
    assert verdict(rows={"tick:3": "stored"}).is_valid


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"rows": {"tick:1": None}}, "lost"),
        ({"rows": {"failing:1": None}}, "lost"),
        ({"effects": {"counted:1": 2}}, "doubled"),
        ({"rows": {"tick:9": "stored"}}, "unexpected"),
        ({"rows": {"failing:1": "stored"}}, "unexpected"),
        ({"rows": {"swallowing:1": "stored"}}, "unexpected"),
        ({"effects": {"flaky:2": 1}}, "unexpected"),
        ({"effects": {"swallowing:1": 1}}, "unexpected"),
        ({"effects": {"counted:9": 1}}, "unexpected"),
        ({"rows": {"tick:1": "dead"}}, "wrongly_dead"),
        ({"effects": {"counted:1": None}}, "without_effect"),
    ],
)
def test_each_history_that_breaks_the_promise_is_found_out_by_its_name(changes: dict[str, Any], count: str) -> None:
    found = verdict(**changes)
    assert not found.is_valid
    broken = {name: number for name, number in found.as_dict().items() if number and name == count}
    assert broken == {count: 1}


def test_an_event_that_may_die_by_counting_but_did_is_wrongly_dead() -> None:
    found = verdict(rows={"counted:1": "dead"}, effects={"counted:1": None})
    assert (found.wrongly_dead, found.lost, found.is_valid) == (1, 0, False)


def test_a_cursor_that_was_saved_too_far_and_a_false_gap_are_counted_though_all_has_ended_since() -> None:
    good = {name: value for name, value in GOOD.items() if name not in ("ahead", "gaps")}
    found = judge(Evidence(**good, ahead={"tick:1", "tick:2"}, gaps=1))
    assert (found.cursor_ahead, found.false_gaps, found.lost, found.is_valid) == (2, 1, 0, False)
