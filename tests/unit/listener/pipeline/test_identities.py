"""One arrival of an identity is attempted at a time; the others are then compared with its row."""

from __future__ import annotations

import pytest

from oncecast.core.event import Arrival
from oncecast.listener.pipeline import identities
from oncecast.listener.pipeline.identities import Identities
from tests.support.arrivals import arrivals


def repeated(count: int, id: str = "x") -> list[Arrival]:
    """Arrivals of one identity in a range that this listener has."""
    made = arrivals(count, acquired=True)
    for arrival in made:
        arrival.id = id
    return made


def ended_once(of: Identities, count: int) -> list[Arrival]:
    """Return `count` arrivals that wait for the first of their identity, which has ended."""
    first, *others = repeated(count + 1)
    of.enter([first, *others])
    end(of, [first])
    return others


def end(of: Identities, ended: list[Arrival]) -> None:
    for arrival in ended:
        arrival.gone = True
        assert of.leave(arrival, has_ended=True) is None


def test_only_the_first_arrival_of_an_identity_is_to_be_attempted() -> None:
    of = Identities()
    first, second = repeated(2)
    (other,) = repeated(1, "y")
    assert of.enter([first, second, other]) == [first, other]
    assert all(arrival.busy for arrival in (first, second, other))


def test_all_arrivals_of_an_identity_that_has_ended_are_compared_together() -> None:
    of = Identities()
    others = ended_once(of, 5)
    assert of.has_repeated.is_set()
    assert of.take_repeated() == others
    assert not of.has_repeated.is_set()
    end(of, others)
    assert of.enter(again := repeated(1)) == again


@pytest.mark.parametrize(("limit", "size"), [("COMPARED_MAX_EVENTS", 2), ("COMPARED_MAX_BYTES", 1)])
def test_arrivals_that_exceed_a_batch_are_in_the_next(monkeypatch: pytest.MonkeyPatch, limit: str, size: int) -> None:
    monkeypatch.setattr(identities, limit, size)
    of = Identities()
    others = ended_once(of, 5)
    for begin in range(0, 5, size):
        batch = of.take_repeated()
        assert batch == others[begin : begin + size]
        end(of, batch)
    assert of.take_repeated() == []


def test_without_a_row_the_first_arrival_is_attempted_and_the_others_wait_for_it() -> None:
    of = Identities()
    others = ended_once(of, 3)
    assert of.put_back(of.take_repeated()) == others[:1]
    end(of, others[:1])
    assert of.take_repeated() == others[1:]


def test_an_arrival_that_comes_while_its_identity_is_compared_waits_for_the_next_batch() -> None:
    of = Identities()
    ended_once(of, 2)
    taken = of.take_repeated()
    (late,) = repeated(1)
    assert of.enter([late]) == []
    end(of, taken)
    assert of.take_repeated() == [late]


def test_if_the_first_arrival_is_attempted_no_longer_the_next_one_is() -> None:
    of = Identities()
    first, second, third = repeated(3)
    of.enter([first, second, third])
    assert of.leave(first, has_ended=False) is second
    assert (first.busy, second.busy, of.has_repeated.is_set()) == (False, True, False)


def test_arrivals_that_ended_or_whose_range_was_released_wait_no_longer() -> None:
    of = Identities()
    (released,) = repeated(1)
    first, gone, last = repeated(3)
    of.enter([first, gone, released, last])
    gone.gone, released.range.acquired = True, False
    assert of.leave(first, has_ended=False) is last
    assert (gone.busy, released.busy) == (False, False)


def test_compared_arrivals_whose_first_has_left_are_attempted() -> None:
    of = Identities()
    others = ended_once(of, 2)
    assert of.take_repeated() == others
    end(of, others[:1])
    assert of.put_back(others[1:]) == others[1:]
