"""Which application is a group's newest, and which listeners are on standby."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.membership import Registration, decide_registration

NOTHING = frozenset[str]()
A, AB, C = frozenset("a"), frozenset("ab"), frozenset("c")


def test_the_first_application_of_a_group_is_its_newest() -> None:
    assert decide_registration(0, NOTHING, A, force=False) == Registration(1, NOTHING, is_new=True)
    assert decide_registration(0, NOTHING, NOTHING, force=False) == Registration(1, NOTHING, is_new=True)


def test_an_application_with_more_handlers_is_the_newest() -> None:
    assert decide_registration(3, A, AB, force=False) == Registration(4, NOTHING, is_new=True)


def test_the_same_application_is_recorded_once() -> None:
    assert decide_registration(3, AB, AB, force=False) == Registration(3, NOTHING, is_new=False)
    assert decide_registration(3, AB, AB, force=True) == Registration(3, NOTHING, is_new=False)


def test_an_application_that_lacks_handlers_is_on_standby() -> None:
    assert decide_registration(3, AB, A, force=False) == Registration(3, frozenset("b"), is_new=False)
    assert decide_registration(3, AB, C, force=False) == Registration(3, AB, is_new=False)


def test_an_application_that_is_forced_is_the_newest_whatever_it_lacks() -> None:
    assert decide_registration(3, AB, C, force=True) == Registration(4, NOTHING, is_new=True)


@given(st.lists(st.tuples(st.frozensets(st.sampled_from("abc")), st.booleans())))
def test_without_force_no_handler_is_ever_lost(steps: list[tuple[frozenset[str], bool]]) -> None:
    revision, newest = 0, NOTHING
    for selectors, force in steps:
        decision = decide_registration(revision, newest, selectors, force=force)
        before = revision, newest
        revision, newest = decision.revision, selectors if decision.is_new else newest
        assert force or newest >= before[1]
        assert decision.missing == newest - selectors
        assert (revision, newest) == before or revision == before[0] + 1
