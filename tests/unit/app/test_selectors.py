"""Selectors are exact or end in *, and detect whether two of them can select the same event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncecast.app.selectors import Selector

TEXTS = st.text("ab.", max_size=4)
PATTERNS = st.one_of(TEXTS.filter(bool), TEXTS.map(lambda text: f"{text}*"))


@pytest.mark.parametrize(
    ("pattern", "type", "selected"),
    [
        ("order.created", "order.created", True),
        ("order.created", "order.created.late", False),
        ("order.*", "order.created", True),
        ("order.*", "order.item.added", True),
        ("order.*", "order", False),
        ("*", "anything", True),
    ],
)
def test_a_pattern_selects_types_with_its_prefix(pattern: str, type: str, selected: bool) -> None:
    assert Selector(pattern).selects(type, "/s") is selected


def test_a_source_narrows_a_selector() -> None:
    selector = Selector("order.*", "/shop/*")
    assert selector.selects("order.created", "/shop/1")
    assert not selector.selects("order.created", "/other")


@given(PATTERNS, PATTERNS, TEXTS)
def test_two_selectors_meet_if_both_select_some_event(one: str, other: str, type: str) -> None:
    both = Selector(one).selects(type, "") and Selector(other).selects(type, "")
    assert not both or Selector(one).meets(Selector(other))


@given(PATTERNS, PATTERNS)
def test_if_two_selectors_meet_some_event_is_selected_by_both(one: str, other: str) -> None:
    if Selector(one).meets(Selector(other)):
        witness = max(one, other, key=lambda pattern: len(pattern.rstrip("*"))).rstrip("*")
        assert Selector(one).selects(witness, "")
        assert Selector(other).selects(witness, "")
