"""Selections of dead letters: ages become times, and errors name the invalid field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from oncecast.core.dead_letters import IDS_MAX, Selection

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", "2026-01-31T10:00:00Z"),
        ("1.5d", "2026-01-30T00:00:00Z"),
        ("500ms", "2026-01-31T11:59:59.500000Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
        ("2026-01-31T10:00:00.25Z", "2026-01-31T10:00:00.250000Z"),
    ],
)
def test_a_time_or_an_age_is_a_time(text: str, time: str) -> None:
    found = Selection(since=text, until=text).at(NOW)
    assert (found.since, found.until) == (time, time)
    assert found.at(NOW) == found


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"since": "2026-01-31"}, "since"),
        ({"since": "2026-01-31T10:00:00"}, "since"),
        ({"since": "5"}, "since"),
        ({"until": "9999999d"}, "until"),
        ({"until": "0001-01-01T00:00:00+05:00"}, "until"),
        ({"type": ""}, "type"),
        ({"source": "a\0b"}, "source"),
        ({"error": "a\nb"}, "error"),
        ({"listener": "\ud800"}, "listener"),
        ({"cause": "ABCDEF0123"}, "cause"),
        ({"ids": ("",)}, "id"),
        ({"ids": ("a",) * (IDS_MAX + 1)}, "ids"),
    ],
)
def test_an_error_begins_with_the_name_of_the_invalid_field(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        Selection(**wrong).at(NOW)


def test_a_type_that_ends_in_a_star_is_a_prefix() -> None:
    assert [Selection(type=name).type_prefix for name in ("order.*", "*", "order", None)] == [
        "order.",
        "",
        None,
        None,
    ]


def test_its_json_has_only_the_given_conditions() -> None:
    chosen = Selection(ids=("a",), type="order.*")
    assert msgspec.json.encode(chosen) == b'{"ids":["a"],"type":"order.*"}'
    assert msgspec.json.decode(b'{"ids":["a"],"type":"order.*"}', type=Selection) == chosen
