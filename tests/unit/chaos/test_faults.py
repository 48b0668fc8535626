"""A plan of faults is drawn from its seed alone, and leaves no kind and no process out in the long run."""

from __future__ import annotations

from oncecast.chaos.faults import KINDS, plan

PROCESSES = {"listeners": ["a", "b", "c"], "producers": ["p"], "postgres": ["postgres"], "valkey": ["valkey"]}


def test_the_same_seed_is_the_same_plan_and_another_is_another() -> None:
    assert plan(7, 300, KINDS, PROCESSES) == plan(7, 300, KINDS, PROCESSES)
    assert plan(7, 300, KINDS, PROCESSES) != plan(8, 300, KINDS, PROCESSES)


def test_every_kind_hits_every_process_alone_and_together_within_the_run() -> None:
    faults = [fault for seed in range(20) for fault in plan(seed, 300, KINDS, PROCESSES)]
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {name for fault in faults for name in fault.targets} == {x for names in PROCESSES.values() for x in names}
    assert {len(fault.targets) for fault in faults} == {1, 2, 3}
    assert all(0 < fault.at_s < 300 and 0 < fault.length_s <= 8 for fault in faults)


def test_only_the_kinds_that_were_asked_for_come() -> None:
    assert {fault.kind for fault in plan(1, 300, ["pause"], PROCESSES)} == {"pause"}
