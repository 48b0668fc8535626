"""Crashes that are counted while Redis cannot count them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.crash_counts import CrashCount, CrashCounts, after_crash, begin_alone, end_alone


def test_a_crash_is_charged_to_the_event_that_the_process_ran_alone() -> None:
    counts, deaths = begin_alone({}, "x", "a")
    assert (counts, deaths) == ({("x", "a"): CrashCount(True, 0)}, 0)
    assert after_crash(counts, "a") == {("x", "a"): CrashCount(False, 1)}


def test_the_crash_of_another_listener_charges_nothing() -> None:
    counts, _ = begin_alone({}, "x", "a")
    assert after_crash(counts, "b") == counts


def test_crashes_count_for_the_whole_group() -> None:
    counts: CrashCounts = {}
    for died, listener in enumerate("abab"):
        counts, deaths = begin_alone(counts, "x", listener)
        assert deaths == died
        counts = after_crash(counts, listener)


def test_an_event_that_a_process_has_survived_is_not_charged() -> None:
    counts, _ = begin_alone({}, "x", "a")
    assert end_alone(counts, "x", "a") == {}


def test_a_listener_runs_one_event_alone_even_if_the_end_of_the_one_before_was_not_recorded() -> None:
    counts, _ = begin_alone({}, "x", "a")
    counts, _ = begin_alone(counts, "y", "a")
    assert after_crash(counts, "a") == {("x", "a"): CrashCount(False, 0), ("y", "a"): CrashCount(False, 1)}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(["run", "crash", "end"]))))
def test_each_crash_charges_at_most_one_event_and_only_one_that_ran(steps: list[tuple[str, str, str]]) -> None:
    counts: CrashCounts = {}
    running: dict[str, str] = {}
    for listener, event, step in steps:
        before = sum(count.deaths for count in counts.values())
        if step == "run":
            counts, _ = begin_alone(counts, event, listener)
            running[listener] = event
        elif step == "crash":
            counts = after_crash(counts, listener)
            died = sum(count.deaths for count in counts.values()) - before
            assert died == (running.pop(listener, None) is not None)
        else:
            counts = end_alone(counts, event, listener)
            if running.get(listener) == event:
                del running[listener]
        assert {name: event for (event, name), count in counts.items() if count.is_running} == running
