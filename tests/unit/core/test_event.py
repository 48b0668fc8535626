"""An event is the same on both sides of the wire."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncecast.event import Event

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
names = st.text(min_size=1, max_size=30)


@given(
    names,
    json_values | st.binary(),
    st.dictionaries(st.from_regex(r"x[a-z0-9]{0,8}", fullmatch=True), st.integers(-9, 9) | st.text() | st.booleans()),
)
def test_an_event_survives_a_round_trip_through_json(id: str, data: object, extensions: dict[str, int | str]) -> None:
    event = Event.new("t", data, id=id, extensions=extensions, subject="s")
    assert Event.from_json(event.to_json()) == event
    assert Event.from_json(event.to_json()).data == data


@pytest.mark.parametrize("extension", [b"", b', "x": 1'])
def test_null_members_count_as_absent(extension: bytes) -> None:
    nulls = b', "subject": null, "data": null, "data_base64": null, "y": null'
    with_nulls = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"' + nulls + extension + b"}"
    without = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"' + extension + b"}"
    assert Event.from_json(with_nulls) == Event.from_json(without)


def test_every_new_event_has_a_unique_id_that_sorts_by_time() -> None:
    ids = [Event.new("t").id for _ in range(100)]
    assert len(set(ids)) == 100
    assert ids[0].startswith("evt_")
    assert ids == sorted(ids)


class Invoice(pydantic.BaseModel):
    due: date
    lines: set[int] = set()


class Numbers(pydantic.RootModel[list[int]]):
    """A model that is a list."""


@dataclass
class Sent:
    invoice: Invoice


INVOICE = Invoice(due=date(2026, 1, 31))
DUMPED = {"due": "2026-01-31", "lines": []}


@pytest.mark.parametrize(
    ("data", "decoded"),
    [
        (INVOICE, DUMPED),
        ({"invoices": [INVOICE]}, {"invoices": [DUMPED]}),
        (Sent(INVOICE), {"invoice": DUMPED}),
        (Numbers([1, 2]), [1, 2]),
    ],
)
def test_a_pydantic_model_is_data_as_it_dumps_itself(data: Any, decoded: Any) -> None:
    assert Event.new("t", data).data == decoded


def test_data_without_a_json_form_is_refused_by_its_type() -> None:
    with pytest.raises(TypeError, match=r"type object is unsupported.*pydantic model"):
        Event.new("t", {"x": object()})
