"""An event is the same on both sides of the wire."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oncecast.core.event import Event

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
def test_an_event_comes_back_from_its_json_as_it_was(id: str, data: object, extensions: dict[str, int | str]) -> None:
    event = Event.new("t", data, id=id, extensions=extensions, subject="s")
    assert Event.from_json(event.to_json()) == event
    assert Event.from_json(event.to_json()).data == data


def test_every_new_event_has_an_id_of_its_own_that_sorts_by_time() -> None:
    ids = [Event.new("t").id for _ in range(100)]
    assert len(set(ids)) == 100
    assert ids[0].startswith("evt_")
    assert ids == sorted(ids)
