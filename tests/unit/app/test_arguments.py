"""Parameters are resolved by their annotations; invalid ones are refused by name at registration."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pydantic
import pytest
import typing_extensions

from oncecast import App, Event, SyncTransaction, Transaction
from oncecast.app.arguments import Arguments, Given
from oncecast.core.errors import ConfigError, DataInvalid, Reject


@dataclasses.dataclass
class Line:
    sku: str
    quantity: int


class Struct(msgspec.Struct):
    lines: list[Line]


class Typed(TypedDict):
    lines: list[Line]


class Model(pydantic.BaseModel):
    lines: list[Line]


class Unserved:
    """A type that JSON cannot be decoded to."""


ORDER = Event.new("order", {"lines": [{"sku": "A", "quantity": 2}]})


def served(
    handler: Callable[..., Any], *events: Event, in_batches: bool = False, state: Any = None
) -> dict[str, Any]:
    arguments = Arguments(handler, in_batches=in_batches, state=type(state) if state is not None else None)
    return arguments.of(Given(events, "tx", state))


def test_event_transaction_data_and_state_are_distinguished_by_their_annotations_in_any_order() -> None:
    async def handler(order: Struct, tx: Transaction, shop: Unserved, event: Event, limit=3) -> None: ...  # type: ignore[no-untyped-def]

    shop = Unserved()
    found = served(handler, ORDER, state=shop)
    assert found == {"order": Struct([Line("A", 2)]), "tx": "tx", "shop": shop, "event": ORDER}


@pytest.mark.parametrize("wanted", [Struct, Typed, Model, dict, dict[str, Any], Any, Struct | None])
def test_data_is_decoded_to_the_annotated_type(wanted: Any) -> None:
    async def handler(order: Any) -> None: ...

    handler.__annotations__ = {"order": wanted}
    order = served(handler, ORDER)["order"]
    lines = order["lines"] if isinstance(order, dict) else order.lines
    assert lines in ([Line("A", 2)], [{"sku": "A", "quantity": 2}])


def test_bytes_are_the_data_unchanged() -> None:
    async def handler(data: bytes) -> None: ...

    assert served(handler, Event.new("t", b"\x00\xff")) == {"data": b"\x00\xff"}
    assert served(handler, Event.new("t", [1])) == {"data": b"[1]"}


@pytest.mark.parametrize("wanted", [Struct, Typed, Model])
@pytest.mark.parametrize(
    ("data", "place"),
    [({"lines": [{"sku": "A", "quantity": "two"}]}, r"\$\.lines\[(0|\.\.\.)\]\.quantity"), ({}, r"lines")],
)
def test_data_that_does_not_fit_is_dead_at_once_and_names_its_path(wanted: Any, data: Any, place: str) -> None:
    async def handler(order: Any) -> None: ...

    handler.__annotations__ = {"order": wanted}
    with pytest.raises(DataInvalid, match=place) as caught:
        served(handler, Event.new("order", data))
    assert isinstance(caught.value, Reject)
    assert wanted.__name__ in str(caught.value)


@pytest.mark.parametrize("wanted", [Struct, Model])
def test_the_error_for_bare_json_with_data_names_the_missing_member(wanted: Any) -> None:
    async def handler(order: Any) -> None: ...

    handler.__annotations__ = {"order": wanted}
    meant = {"id": "o-1", "type": "order", "data": {"lines": []}}
    with pytest.raises(DataInvalid, match=r'add "specversion": "1\.0"'):
        served(handler, Event.new("order", meant))
    for other in ({"data": 1}, {"type": "order"}, ["type", "data"]):
        with pytest.raises(DataInvalid, match="fit") as caught:
            served(handler, Event.new("order", other))
        assert "specversion" not in str(caught.value)


@pytest.mark.parametrize("event", [Event.new("order", b"binary"), Event.new("order")])
def test_an_event_without_json_data_does_not_fit_a_type(event: Event) -> None:
    async def handler(order: Struct) -> None: ...

    with pytest.raises(DataInvalid):
        served(handler, event)


def test_an_event_without_data_is_none_where_that_is_allowed() -> None:
    async def handler(order: Struct | None) -> None: ...

    assert served(handler, Event.new("order")) == {"order": None}


def test_a_batch_handler_gets_lists_of_events_and_of_their_data() -> None:
    async def handler(orders: list[Struct], tx: Transaction, events: list[Event]) -> None: ...

    found = served(handler, ORDER, ORDER, in_batches=True)
    assert found == {"orders": [Struct([Line("A", 2)])] * 2, "tx": "tx", "events": [ORDER, ORDER]}


def test_without_annotations_event_and_tx_are_known_by_name() -> None:
    def handler(event, tx): ...  # type: ignore[no-untyped-def]

    assert served(handler, ORDER) == {"event": ORDER, "tx": "tx"}
    assert served(handler, ORDER, in_batches=True) == {"event": [ORDER], "tx": "tx"}


class Depends:
    """A marker of another framework."""


async def unannotated(event: Event, more) -> None: ...  # type: ignore[no-untyped-def]
async def unserved(thing: Unserved) -> None: ...
async def everything(*args: Any) -> None: ...
async def anything(**options: Any) -> None: ...
async def by_place(event: Event, /) -> None: ...
async def two_data(order: Struct, other: Typed) -> None: ...
async def sync_in_async(tx: SyncTransaction) -> None: ...
def async_in_sync(tx: Transaction) -> None: ...
async def unknown_name(order: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def unknown_attribute(order: msgspec.Nowhere) -> None: ...  # type: ignore[name-defined]
async def misspelt(order: "dict[str") -> None: ...  # type: ignore[valid-type]  # noqa: F722
async def with_a_default(event: Event, dry_run: bool = False) -> None: ...
async def depending(event: Event, shop: Annotated[int, Depends()]) -> None: ...
async def depending_by_default(event: Event, shop: int = Depends()) -> None: ...  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        (unannotated, "more"),
        (unserved, "thing"),
        (everything, "args"),
        (anything, "options"),
        (by_place, "event"),
        (two_data, "other"),
        (sync_in_async, "tx"),
        (async_in_sync, "tx.*SyncTransaction"),
        (unknown_name, "'order': .*'Nowhere', which is not defined"),
        (unknown_attribute, "'order': .*Nowhere"),
        (misspelt, "'order': .*cannot be read"),
        (with_a_default, "'dry_run': .*remove the default"),
        (depending, "'shop': Depends is of another framework.*lifespan"),
        (depending_by_default, "'shop': Depends is of another framework"),
    ],
)
def test_an_invalid_parameter_fails_at_registration_with_handler_and_parameter_named(
    handler: Any, named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        App("shop").on("t")(handler)
    assert handler.__name__ in str(caught.value)


def test_an_optional_state_fails_at_registration_because_it_would_be_the_data() -> None:
    @dataclasses.dataclass
    class Shop:
        name: str

    async def handler(shop: Shop | None) -> None: ...

    handler.__annotations__ = {"shop": Shop | None}
    with pytest.raises(ConfigError, match=r"'shop': the lifespan always yields .*Shop"):
        served(handler, ORDER, state=Shop("here"))


def test_the_return_annotation_of_a_handler_is_ignored() -> None:
    async def handler(event: Event) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821

    assert served(handler, ORDER) == {"event": ORDER}


def test_a_batch_handler_that_asks_for_one_event_fails_at_registration() -> None:
    async def handler(order: Struct) -> None: ...

    with pytest.raises(ConfigError, match=r"'order'.*list\[Event\]"):
        App("shop").on_batch("t")(handler)


def test_annotations_may_name_locals_of_the_registering_function() -> None:
    class Local(msgspec.Struct):
        n: int

    app = App("shop")

    @app.on("t")
    async def handler(local: Local) -> None: ...


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        (Annotated[int, msgspec.Meta(gt=0)], 1, 0),
        (Annotated[list[int], msgspec.Meta(min_length=1)], [1], []),
        (list[Annotated[int, msgspec.Meta(gt=0)]], [1], [0]),
        (Annotated[Annotated[int, msgspec.Meta(gt=0)] | None, "a number"], 1, 0),
        (Annotated[int, pydantic.Field(gt=0)], 1, 0),
        (pydantic.PositiveInt, 1, 0),
        (dict[str, Annotated[int, pydantic.Field(gt=0)]], {"n": 1}, {"n": 0}),
        (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], {"kind": "dog"}, {"kind": "cow"}),
        (pydantic.HttpUrl, "http://localhost/", "nowhere"),
    ],
)
def test_the_checks_in_annotated_are_applied_to_the_data(wanted: Any, good: Any, bad: Any) -> None:
    async def handler(data: Any) -> None: ...

    handler.__annotations__ = {"data": wanted}
    served(handler, Event.new("t", good))
    with pytest.raises(DataInvalid):
        served(handler, Event.new("t", bad))


def test_annotated_does_not_change_event_transaction_and_state() -> None:
    async def handler(
        event: Annotated[Event, "what came"],
        tx: Annotated[Transaction, "where to write"],
        shop: Annotated[Unserved, "from the lifespan"],
        data: Annotated[Any, "anything"],
    ) -> None: ...

    async def of_batch(events: Annotated[list[Annotated[Event, "one"]], "all"]) -> None: ...

    shop = Unserved()
    found = served(handler, ORDER, state=shop)
    assert found == {"event": ORDER, "tx": "tx", "shop": shop, "data": ORDER.data}
    assert served(of_batch, ORDER, in_batches=True) == {"events": [ORDER]}


def test_the_data_of_each_event_of_a_batch_is_checked() -> None:
    async def handler(numbers: list[Annotated[int, msgspec.Meta(gt=0)]]) -> None: ...

    assert served(handler, Event.new("t", 1), in_batches=True) == {"numbers": [1]}
    with pytest.raises(DataInvalid):
        served(handler, Event.new("t", 0), in_batches=True)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Annotated[bytes, msgspec.Meta(max_length=3)], "bytes are passed unchanged"),
        (Annotated[int, msgspec.Meta(gt=0), pydantic.Field(lt=9)], r"msgspec\.Meta"),
        (Annotated[str, msgspec.Meta(gt=0)], "gt"),
    ],
)
def test_checks_that_cannot_be_applied_fail_at_registration(wanted: Any, why: str) -> None:
    async def handler(data: Any) -> None: ...

    handler.__annotations__ = {"data": wanted}
    with pytest.raises(ConfigError, match=f"'data': .*{why}"):
        App("shop").on("t")(handler)


def test_checks_of_a_whole_batch_fail_at_registration() -> None:
    async def handler(numbers: Annotated[list[int], msgspec.Meta(min_length=9)]) -> None: ...

    with pytest.raises(ConfigError, match=r"'numbers': .*max_events"):
        App("shop").on_batch("t")(handler)


def test_a_pydantic_check_without_pydantic_fails_at_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(n: Annotated[int, pydantic.Field(gt=0)]) -> None: ...

    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(ConfigError, match=r"'n': .*pip install 'oncecast\[pydantic\]'"):
        App("shop").on("t")(handler)


@dataclasses.dataclass
class Parcel:
    """A dataclass with a pydantic type."""

    animal: Cat


class TypedParcel(typing_extensions.TypedDict):
    animal: Cat


class NamedParcel(NamedTuple):
    animal: Cat


@dataclasses.dataclass
class Weighed:
    grams: Annotated[int, pydantic.Field(gt=0)]
    pieces: int = pydantic.Field(gt=0, default=1)


@pytest.mark.parametrize(
    ("wanted", "data"),
    [
        (Parcel, {"animal": {"kind": "cat"}}),
        (Parcel | None, {"animal": {"kind": "cat"}}),
        (TypedParcel, {"animal": {"kind": "cat"}}),
        (NamedParcel, [{"kind": "cat"}]),
        (dict[str, list[Parcel]], {"all": [{"animal": {"kind": "cat"}}]}),
    ],
)
def test_a_type_with_a_pydantic_type_is_decoded_by_pydantic(wanted: Any, data: Any) -> None:
    async def handler(data: Any) -> None: ...

    handler.__annotations__ = {"data": wanted}
    assert "Cat(" in repr(served(handler, Event.new("t", data)))
    cow = msgspec.json.decode(msgspec.json.encode(data).replace(b"cat", b"cow"))
    with pytest.raises(DataInvalid, match="kind"):
        served(handler, Event.new("t", cow))


def test_pydantic_checks_of_dataclass_fields_are_applied() -> None:
    async def handler(data: Weighed) -> None: ...

    assert served(handler, Event.new("t", {"grams": 1})) == {"data": Weighed(1, 1)}
    for data in ({"grams": 0}, {"grams": 1, "pieces": 0}):
        with pytest.raises(DataInvalid):
            served(handler, Event.new("t", data))


@dataclasses.dataclass
class DeadLettersLogged:
    path: Path


class Nested(msgspec.Struct):
    lines: list[DeadLettersLogged]
    again: "Nested | None" = None  # noqa: UP037


class TypedPath(TypedDict):
    path: Path


class Struck(msgspec.Struct):
    animal: Cat


T = TypeVar("T")


class Box(msgspec.Struct, Generic[T]):
    content: T


@dataclasses.dataclass
class Lost:
    order: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037


class LostModel(pydantic.BaseModel):
    order: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (list[Unserved], "Unserved is no type that JSON can be decoded to"),
        (Unserved | None, "Unserved is no type"),
        (dict[str, Unserved], "Unserved is no type"),
        (DeadLettersLogged, r"DeadLettersLogged\.path is of type Path, which is no type that JSON can be decoded to"),
        (Box[Unserved], r"Box\.content is of type Unserved"),
        (Box[Cat], "pydantic cannot decode it: .*Box"),
        (Nested, r"DeadLettersLogged\.path is of type Path"),
        (TypedPath, r"TypedPath\.path is of type Path"),
        (NamedTuple("Named", [("path", Path)]), r"Named\.path is of type Path"),
        (Struck, "pydantic cannot decode it: .*Struck"),
        (Struct | Typed, "dict-like"),
        (Lost, "'Nowhere', which is not defined"),
        (LostModel, "'Nowhere', which is not defined"),
        (Event | None, "annotate it as Event alone"),
        (list[Event], "annotate it as Event alone"),
        (Transaction | None, "annotate it as Transaction alone"),
    ],
)
def test_a_type_with_an_unsupported_part_fails_at_registration(wanted: Any, why: str) -> None:
    async def handler(data: Any) -> None: ...

    handler.__annotations__ = {"data": wanted}
    with pytest.raises(ConfigError, match=f"handler.*'data': .*{why}"):
        App("shop").on("t")(handler)


def test_any_in_a_type_stands_for_unchecked_values() -> None:
    async def handler(data: dict[str, object]) -> None: ...

    assert served(handler, Event.new("t", {"n": 1})) == {"data": {"n": 1}}
