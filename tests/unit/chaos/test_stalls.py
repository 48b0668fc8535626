"""A stall is time in which nothing was stored though something waited; a fault explains what it covers, no more."""

from __future__ import annotations

import pytest

from oncecast.chaos.stalls import RECONNECT_MAX_S, Outage, blocked, merged, stalls, unexplained_s


def test_events_that_are_stored_as_they_come_stall_for_no_longer_than_each_takes() -> None:
    assert stalls([(0.0, 0.1), (1.0, 1.1), (9.0, 9.1)]) == [(0.0, 0.1), (1.0, 1.1), (9.0, 9.1)]


def test_a_stall_begins_with_the_last_that_was_stored_before_it_or_with_the_first_that_waits() -> None:
    waiting_since_1 = [(0.0, 0.5), (1.0, 8.0), (2.0, 8.1)]
    assert stalls(waiting_since_1)[1] == (1.0, 8.0)
    others_flow = [(0.0, 9.0), (1.0, 2.0), (2.0, 3.0)]
    assert max(end - begin for begin, end in stalls(others_flow)) == 6.0


@pytest.mark.parametrize(
    ("outages", "expected"),
    [
        ([Outage("postgres", 1, 3)], [(1, 3)]),
        ([Outage("producer-a", 1, 3)], [(1, 3 + RECONNECT_MAX_S)]),
        ([Outage("producer-b", 1, 3)], []),
        ([Outage("valkey", 1, 3)], []),
        ([Outage("a", 1, 5)], []),
        ([Outage("a", 1, 5), Outage("b", 3, 9)], [(3, 5)]),
        ([Outage("a", 1, 5), Outage("b>postgres", 3, 9)], [(3, 5)]),
        ([Outage("a", 1, 50), Outage("b>producer-a", 3, 9)], [(3, 9 + RECONNECT_MAX_S)]),
        ([Outage("a", 1, 5), Outage("b>producer-b", 3, 9)], []),
    ],
)
def test_a_journal_is_blocked_while_its_producer_postgresql_or_every_listener_is_down(
    outages: list[Outage], expected: list[tuple[float, float]]
) -> None:
    assert blocked(outages, "producer-a", ["a", "b"]) == expected


def test_what_no_fault_covers_is_unexplained() -> None:
    explained = merged([(0, 2), (1, 3), (8, 9)])
    assert unexplained_s((1, 10), explained) == 6
    assert unexplained_s((1, 3), explained) == 0
    assert unexplained_s((4, 6), explained) == 2
