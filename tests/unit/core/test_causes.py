"""Errors that differ in numbers, ids and quoted values alone have one cause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.causes import cause_of, error_pattern
from oncecast.core.dead_letters import CAUSE_CHARS


@pytest.mark.parametrize(
    ("error", "pattern"),
    [
        ("KeyError: 'sku'", "KeyError: 'sku'"),
        ("no article o-17", "no article #"),
        ("at 2026-01-31T12:00:00.5Z it took 1.5 s", "at # it took # s"),
        ("Key (id)=(a b) is there: 'x'='y z', n=\"\"", "Key (id)=# is there: 'x'=#, n=#"),
        ("two \t\n lines", "two lines"),
    ],
)
def test_the_pattern_of_an_error_has_a_sign_for_each_variable_part(error: str, pattern: str) -> None:
    assert error_pattern(error) == pattern


def test_errors_with_one_pattern_have_one_cause_and_others_have_others() -> None:
    assert cause_of("no article o-17") == cause_of("no article evt_9f86d081")
    assert cause_of("no article o-17") != cause_of("no stock o-17")


@given(st.text(max_size=2_000))
def test_every_error_has_a_cause_with_a_short_name(error: str) -> None:
    assert len(error_pattern(error)) <= 200
    assert len(cause_of(error)) == CAUSE_CHARS
