"""Outcomes of events whose identity already has a row, and of events without an obstacle."""

from __future__ import annotations

import pytest

from oncecast.core.errors import RowLocked
from oncecast.core.outcomes import EarlierAttempts, Outcome, compared, obstacle


@pytest.mark.parametrize("same_content", [True, False])
def test_an_event_whose_row_came_from_its_own_place_has_ended(same_content: bool) -> None:
    assert compared(same_place=True, same_content=same_content) is Outcome.PRESENT


def test_an_event_that_was_published_again_is_a_duplicate() -> None:
    assert compared(same_place=False, same_content=True) is Outcome.DUPLICATE


def test_an_event_with_other_content_under_a_used_identity_is_a_conflict() -> None:
    assert compared(same_place=False, same_content=False) is Outcome.CONFLICT


def test_an_event_that_was_not_inserted_without_an_obstacle_is_tried_again() -> None:
    earlier = EarlierAttempts(1, 0.0, "ValueError: no")
    assert obstacle(Outcome.DUPLICATE, "x") is Outcome.DUPLICATE
    assert obstacle(earlier, "x") is earlier
    with pytest.raises(RowLocked, match="'x' was not inserted"):
        obstacle(None, "x")
