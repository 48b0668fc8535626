"""A plan of faults is drawn from its seed alone, and leaves no kind and no target out in the long run."""

from __future__ import annotations

from oncecast.chaos.faults import INSTANT, KINDS, only, plan

TARGETS = {
    "processes": {"listeners": ["a", "b", "c"], "producers": ["p"], "postgres": ["postgres"]},
    "links": {"to producers": ["a>p", "b>p", "c>p"], "to postgres": ["a>postgres", "b>postgres", "c>postgres"]},
    "valkey": {"valkey": ["valkey"]},
    "journals": {"producers": ["p"]},
}


def test_the_same_seed_is_the_same_plan_and_another_is_another() -> None:
    assert plan(7, 300, list(KINDS), TARGETS) == plan(7, 300, list(KINDS), TARGETS)
    assert plan(7, 300, list(KINDS), TARGETS) != plan(8, 300, list(KINDS), TARGETS)


def test_every_kind_hits_each_of_its_targets_alone_and_together_within_the_run() -> None:
    faults = [fault for seed in range(60) for fault in plan(seed, 300, list(KINDS), TARGETS)]
    for kind, what in KINDS.items():
        names = {name for names in TARGETS[what].values() for name in names}
        of_kind = [fault for fault in faults if fault.kind == kind]
        assert {name for fault in of_kind for name in fault.targets} == names
        assert {len(fault.targets) for fault in of_kind} == ({1, 2, 3} if len(names) > 1 else {1})
        assert all((fault.length_s == 0) == (kind in INSTANT) for fault in of_kind)
    assert all(0 < fault.at_s < 300 for fault in faults)


def test_a_frozen_link_stops_one_way_or_the_other_or_both() -> None:
    ways = {fault.way for seed in range(10) for fault in plan(seed, 300, ["freeze"], TARGETS)}
    assert ways == {"up", "down", "both"}


def test_only_the_kinds_and_the_targets_that_were_asked_for_come() -> None:
    assert {fault.kind for fault in plan(1, 300, ["pause"], TARGETS)} == {"pause"}
    faults = plan(1, 300, ["kill", "cut"], only(TARGETS, ["a", "to postgres"]))
    hit = {(fault.kind, name) for fault in faults for name in fault.targets}
    assert hit == {("kill", "a"), ("cut", "a>postgres"), ("cut", "b>postgres"), ("cut", "c>postgres")}


def test_a_kind_that_finds_none_of_its_targets_is_left_out() -> None:
    assert plan(1, 300, ["empty"], only(TARGETS, ["a"])) == []
