"""An owner is dead when its counter has not changed for long enough on the observer's clock."""

from oncecast.core.lease_owners import LeaseOwners


def test_an_owner_with_a_changing_counter_stays_alive() -> None:
    owners = LeaseOwners(dead_after_s=4)
    assert all(owners.observe({"a": n}, float(n), float(n)) == [] for n in range(100))


def test_an_owner_whose_counter_never_changes_is_dead_even_without_a_counter() -> None:
    owners = LeaseOwners(dead_after_s=4)
    assert owners.observe({"a": 7, "b": None}, 0.0, 0.0) == []
    assert owners.observe({"a": 7, "b": None}, 3.9, 3.9) == []
    assert owners.observe({"a": 7, "b": None}, 4.0, 4.0) == ["a", "b"]


def test_a_change_at_the_last_moment_restarts_the_time() -> None:
    owners = LeaseOwners(dead_after_s=4)
    owners.observe({"a": 7}, 0.0, 0.0)
    owners.observe({"a": 8}, 3.9, 3.9)
    assert owners.observe({"a": 8}, 7.8, 7.8) == []
    assert owners.observe({"a": 8}, 7.9, 7.9) == ["a"]


def test_a_forgotten_owner_counts_as_new() -> None:
    owners = LeaseOwners(dead_after_s=4)
    owners.observe({"a": 7}, 0.0, 0.0)
    owners.forget(["a"])
    assert owners.observe({"a": 7}, 60.0, 60.0) == []


def test_an_observer_that_was_stopped_before_it_read_the_answer_declares_nobody_dead() -> None:
    """The answer is as old as its question."""
    owners = LeaseOwners(dead_after_s=4)
    owners.observe({"a": 7}, 0.0, 0.1)
    assert owners.observe({"a": 7}, 0.5, 20.0) == []
    assert owners.observe({"a": 26}, 20.5, 20.6) == []


def test_a_counter_first_seen_in_a_late_answer_ages_from_that_answer_on() -> None:
    owners = LeaseOwners(dead_after_s=4)
    owners.observe({"a": 7}, 0.0, 20.0)
    assert owners.observe({"a": 7}, 23.9, 23.9) == []
    assert owners.observe({"a": 7}, 24.0, 24.0) == ["a"]
