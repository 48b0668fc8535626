"""Each example runs by the commands that its docstring tells, on two listeners, and leaves exactly what it says."""

from __future__ import annotations

from typing import Any

from tests.support.stacks import rows, until
from tests.support.terminals import Example, ExampleOf


async def ended(example: Example, group: str, count: int, status: str = "stored") -> None:
    """Wait until so many events of the group have ended so."""

    async def as_many() -> bool:
        found = await rows(example, f"select count(*) from {group}.events where status = '{status}'")
        return found == [(count,)]

    await until(as_many, 90.0)


async def dead(example: Example, group: str) -> dict[str, str]:
    """The error of each event that is dead, by its id."""
    letters: list[tuple[Any, ...]] = await rows(
        example,
        f"select id, error from {group}.dead_letters join {group}.events using (source, id) where status = 'dead'",
    )
    return dict(letters)


async def test_stock_is_reserved_once_and_never_below_zero(example_of: ExampleOf) -> None:
    async with example_of("stock") as example:
        await example.send()
        await ended(example, "stock", 15)
        await ended(example, "stock", 4, "dead")
        assert await example.shown() == [["A-1", 0, 30], ["B-2", 0, 5], ["C-3", 8, 2]]
        assert await dead(example, "stock") == {
            "o-11": "Retry: B-2 is sold out for now",
            "o-14": "Reject: there is no 'E-5' in the catalogue",
            "o-15": "Reject: a quantity of -4",
            "o-16": "DataInvalid: the data does not fit Goods: Expected `int`, got `str` - at `$.quantity`",
        }
        await example.run(
            """echo '{"id": "d-4", "type": "stock.delivered", "sku": "B-2", "quantity": 7}' | oncecast send -"""
        )
        await ended(example, "stock", 16)
        await example.run("oncecast dead-letters replay o-11")
        assert await example.shown() == [["A-1", 0, 30], ["B-2", 1, 11], ["C-3", 8, 2]]
