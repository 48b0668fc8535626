"""The judge is fed with histories that are good, and with each that is not, and says so."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from oncecast.chaos.judge import Evidence, Rules, Verdict, identity, judge

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
    evidence = copy.deepcopy(GOOD)
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


# --- an application of a user's, with follow-ups ------------------------------------------------------------------

USERS: dict[str, Any] = {
    "tried": {"1", "2", "3"},
    "acknowledged": {"1", "2", "3"},
    "rows": {"1": "stored", "2": "stored", "3": "dead", "f1": "stored", "f2": "dead"},
    "types": {"1": "order", "2": "order", "3": "maybe.dead", "f1": "reserved", "f2": "maybe.never"},
    "emitted": {"f1": 1, "f2": 1},
    "caused": {"f1", "f2"},
}
MAY_DIE = Rules(may_be_dead=("maybe.*",))


def test_what_a_user_says_may_die_may_and_follow_ups_are_counted() -> None:
    found = judge(Evidence(**USERS), MAY_DIE)
    assert found.is_valid
    assert (found.emitted, found.stored, found.dead, found.without_effect) == (2, 3, 2, 0)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"rows": {**USERS["rows"], "1": "dead"}}, "wrongly_dead"),
        ({"rows": {**USERS["rows"], "f1": "dead"}}, "wrongly_dead"),
        ({"emitted": {"f1": 2, "f2": 1}}, "doubled"),
        ({"emitted": {"f1": 1, "f2": 1, "f3": 1}, "caused": {"f1", "f2", "f3"}}, "lost"),
        ({"caused": {"f2"}}, "unexpected"),
        ({"emitted": {"f2": 1}, "caused": {"f2"}}, "unexpected"),
        ({"left_in_outbox": 1}, "left_in_outbox"),
        ({"conflicts": 1}, "conflicts"),
        ({"check_rows": 1}, "check_rows"),
    ],
)
def test_a_follow_up_that_is_lost_doubled_or_without_cause_is_found_out_and_what_the_application_checks(
    changes: dict[str, Any], count: str
) -> None:
    found = judge(Evidence(**{**USERS, **changes}), MAY_DIE)
    assert {name: number for name, number in list(found.as_dict().items())[5:] if number} == {count: 1}
    assert not found.is_valid


def test_the_same_id_of_two_sources_is_two_events() -> None:
    assert len({identity("/oncecast", "1"), identity("/shop", "1"), identity("/shop", "2")}) == 3
