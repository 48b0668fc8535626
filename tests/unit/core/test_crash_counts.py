"""Crashes are charged to the event that the process ran alone, once each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.crash_counts import (
    CrashCount,
    CrashCounts,
    after_crash_of_listener,
    after_crash_of_owner,
    begin_alone,
    end_alone,
)


def test_a_crash_is_charged_to_the_event_that_the_process_ran_alone() -> None:
    counts, deaths = begin_alone({}, "x", "a", "t")
    assert (counts, deaths) == ({("x", "a"): CrashCount("t", 0)}, 0)
    assert after_crash_of_listener(counts, "a") == {("x", "a"): CrashCount(None, 1)}
    assert after_crash_of_owner(counts, "t") == {("x", "a"): CrashCount(None, 1)}


def test_the_crash_of_another_process_charges_nothing() -> None:
    counts, _ = begin_alone({}, "x", "a", "t")
    assert after_crash_of_listener(counts, "b") == counts
    assert after_crash_of_owner(counts, "u") == counts


def test_a_crash_is_charged_once_although_two_listeners_count_it() -> None:
    counts, _ = begin_alone({}, "x", "a", "t")
    once = after_crash_of_owner(counts, "t")
    assert after_crash_of_owner(once, "t") == after_crash_of_listener(once, "a") == once


def test_crashes_count_for_the_whole_group() -> None:
    counts: CrashCounts = {}
    for died, listener in enumerate("abab"):
        counts, deaths = begin_alone(counts, "x", listener, "t")
        assert deaths == died
        counts = after_crash_of_listener(counts, listener)


def test_an_event_that_a_process_has_survived_is_not_charged() -> None:
    counts, _ = begin_alone({}, "x", "a", "t")
    assert end_alone(counts, "x", "a") == {}


def test_a_listener_runs_one_event_alone_even_if_the_end_of_the_one_before_was_not_recorded() -> None:
    counts, _ = begin_alone({}, "x", "a", "t")
    counts, _ = begin_alone(counts, "y", "a", "t")
    assert after_crash_of_owner(counts, "t") == {("x", "a"): CrashCount(None, 0), ("y", "a"): CrashCount(None, 1)}


STEPS = ["run", "crash of listener", "crash of owner", "end"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(STEPS))))
def test_each_death_charges_at_most_one_event_and_only_one_that_ran(steps: list[tuple[str, str, str]]) -> None:
    counts: CrashCounts = {}
    running: dict[str, str] = {}
    for listener, event, step in steps:
        before = sum(count.deaths for count in counts.values())
        if step == "run":
            counts, _ = begin_alone(counts, event, listener, f"token of {listener}")
            running[listener] = event
        elif step == "end":
            counts = end_alone(counts, event, listener)
            if running.get(listener) == event:
                del running[listener]
        else:
            is_owner = step == "crash of owner"
            after, name = (after_crash_of_owner, "token of ") if is_owner else (after_crash_of_listener, "")
            counts = after(counts, name + listener)
            died = sum(count.deaths for count in counts.values()) - before
            assert died == (running.pop(listener, None) is not None)
        assert {name: event for (event, name), count in counts.items() if count.running} == running
