"""A holder is dead when its counter has stood still for long enough on the observer's clock."""

from oncecast.core.taken import Holders


def test_a_holder_whose_counter_moves_is_alive_for_ever() -> None:
    holders = Holders(dead_after_s=4)
    assert all(holders.observe({"a": n}, float(n)) == [] for n in range(100))


def test_a_counter_that_stands_for_the_whole_time_is_dead_even_if_it_was_never_there() -> None:
    holders = Holders(dead_after_s=4)
    assert holders.observe({"a": 7, "b": None}, 0.0) == []
    assert holders.observe({"a": 7, "b": None}, 3.9) == []
    assert holders.observe({"a": 7, "b": None}, 4.0) == ["a", "b"]


def test_a_move_at_the_last_moment_starts_the_time_anew() -> None:
    holders = Holders(dead_after_s=4)
    holders.observe({"a": 7}, 0.0)
    holders.observe({"a": 8}, 3.9)
    assert holders.observe({"a": 8}, 7.8) == []
    assert holders.observe({"a": 8}, 7.9) == ["a"]


def test_who_is_forgotten_is_seen_for_the_first_time_again() -> None:
    holders = Holders(dead_after_s=4)
    holders.observe({"a": 7}, 0.0)
    holders.forget(["a"])
    assert holders.observe({"a": 7}, 60.0) == []
