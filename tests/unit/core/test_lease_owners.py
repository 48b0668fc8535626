"""A holder is dead when its counter has stood still for long enough on the observer's clock."""

from oncecast.core.lease_owners import LeaseOwners


def test_a_holder_whose_counter_moves_is_alive_for_ever() -> None:
    holders = LeaseOwners(dead_after_s=4)
    assert all(holders.emit({"a": n}, float(n), float(n)) == [] for n in range(100))


def test_a_counter_that_stands_for_the_whole_time_is_dead_even_if_it_was_never_there() -> None:
    holders = LeaseOwners(dead_after_s=4)
    assert holders.emit({"a": 7, "b": None}, 0.0, 0.0) == []
    assert holders.emit({"a": 7, "b": None}, 3.9, 3.9) == []
    assert holders.emit({"a": 7, "b": None}, 4.0, 4.0) == ["a", "b"]


def test_a_move_at_the_last_moment_starts_the_time_anew() -> None:
    holders = LeaseOwners(dead_after_s=4)
    holders.emit({"a": 7}, 0.0, 0.0)
    holders.emit({"a": 8}, 3.9, 3.9)
    assert holders.emit({"a": 8}, 7.8, 7.8) == []
    assert holders.emit({"a": 8}, 7.9, 7.9) == ["a"]


def test_who_is_forgotten_is_seen_for_the_first_time_again() -> None:
    holders = LeaseOwners(dead_after_s=4)
    holders.emit({"a": 7}, 0.0, 0.0)
    holders.forget(["a"])
    assert holders.emit({"a": 7}, 60.0, 60.0) == []


def test_an_observer_that_was_held_up_with_the_answer_unread_declares_nobody_dead() -> None:
    """The answer is as old as its question."""
    holders = LeaseOwners(dead_after_s=4)
    holders.emit({"a": 7}, 0.0, 0.1)
    assert holders.emit({"a": 7}, 0.5, 20.0) == []
    assert holders.emit({"a": 26}, 20.5, 20.6) == []


def test_a_counter_that_was_first_seen_in_a_late_answer_stands_still_from_then_on() -> None:
    holders = LeaseOwners(dead_after_s=4)
    holders.emit({"a": 7}, 0.0, 20.0)
    assert holders.emit({"a": 7}, 23.9, 23.9) == []
    assert holders.emit({"a": 7}, 24.0, 24.0) == ["a"]
