"""Each example runs by the commands that its docstring tells, on two listeners, and leaves exactly what it says."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from oncecast.embedded.ports import free_port
from tests.support.stacks import drained, rows, until
from tests.support.terminals import ROOT, Example, ExampleOf

pytestmark = pytest.mark.timeout(400)


async def ended(example: Example, group: str, count: int, status: str = "stored") -> None:
    """Wait until `count` events of the group have this status."""

    async def as_many() -> bool:
        found = await rows(example, f"select count(*) from {group}.events where status = '{status}'")
        return found == [(count,)]

    await until(as_many, 90.0)


async def dead(example: Example, group: str) -> dict[str, str]:
    """The error of each event that is dead, by its id."""
    dead_letters = await rows(
        example,
        f"select id, error from {group}.dead_letters join {group}.events using (source, id) where status = 'dead'",
    )
    return dict(dead_letters)


def test_every_example_is_run_here() -> None:
    reported = Path(__file__).read_text("utf-8")
    for file in (ROOT / "examples").glob("*.py"):
        assert file.stem == "tables" or f'example_of("{file.stem}"' in reported, file.name


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


async def test_earthquakes_are_counted_per_region_and_day_by_the_batch(example_of: ExampleOf) -> None:
    quakes = [json.loads(line) for line in (ROOT / "examples/earthquakes.ndjson").read_text().splitlines()]
    per_day: dict[tuple[str, str], list[float]] = defaultdict(list)
    for quake in quakes:
        region = quake["place"].split(", ")[-1]
        region = {"CA": "California", "MX": "Mexico", "NV": "Nevada"}.get(region, region)
        per_day[region, f"{datetime.fromtimestamp(quake['occurred_ms'] / 1000, UTC):%Y-%m-%d}"].append(quake["mag"])
    expected: list[list[Any]] = sorted([region, day, len(mags), max(mags)] for (region, day), mags in per_day.items())
    async with example_of("earthquakes") as example:
        await example.send()
        await example.send()  # the same once more
        await ended(example, "earthquakes", len(quakes))
        await drained(example)
        assert await example.shown() == sorted(expected, key=lambda row: (-row[2], row[0], row[1]))[:10]
        query = "select region, day::text, quakes, strongest from quakes_per_day"
        assert sorted(map(list, await rows(example, query))) == expected


async def test_a_chain_does_each_step_once(example_of: ExampleOf) -> None:
    orders = [f"order-{n:02}" for n in range(1, 25) if n % 4]
    async with example_of("chain") as example:
        await example.send()
        await ended(example, "chain", 3 * len(orders))
        await ended(example, "chain", 6, "dead")
        await drained(example)
        assert await example.shown() == [[order, "reserved → confirmed → done"] for order in orders]
        assert await rows(example, "select type, count(*)::int from chain.events group by type order by type") == [
            ("order.confirmed", 18),
            ("order.placed", 24),
            ("order.reserved", 18),
        ]


async def test_accounts_are_booked_in_order_and_one_that_fails_holds_up_only_its_own(example_of: ExampleOf) -> None:
    async with example_of("accounts", EVENT_RETRY_DELAY="2s") as example:
        await example.send()
        await ended(example, "accounts", 18)
        accounts, bookings = example.commands_with("oncecast sql")
        assert await example.answer(accounts) == [["anna", 5, 5], ["bert", 20, 3], ["carl", 0, 4], ["dora", 1, 6]]
        assert [row[1:] for row in await example.answer(bookings) if row[0] == "anna"] == [
            [1, "anna-1", 50, 50],
            [2, "anna-3", 100, 150],
            [3, "anna-4", -80, 70],
            [4, "anna-5", -70, 0],
            [5, "anna-6", 5, 5],
        ]
        assert [row[2] for row in await example.answer(bookings) if row[0] == "bert"] == [
            "bert-1",
            "bert-3",
            "bert-4",
        ]
        assert await dead(example, "accounts") == {
            "anna-2": "Reject: 80 are more than the balance of 50",
            "bert-2": "KeyError: 'XXX'",
            "bert-5": "Reject: 30 are more than the balance of 20",
            "carl-3": "Reject: 1 are more than the balance of 0",
            "dora-6": "Reject: 1 are more than the balance of 0",
        }
        ended_in_order = "select id from accounts.events order by stored_at"
        order = [id_ for (id_,) in await rows(example, ended_in_order)]
        for account in ("anna", "bert", "carl", "dora"):
            own = [id_ for id_ in order if id_.startswith(account)]
            assert own == sorted(own)
        assert set(order[order.index("bert-2") :]) == {"bert-2", "bert-3", "bert-4", "bert-5"}


async def test_webhooks_go_into_the_tables_of_their_kind(example_of: ExampleOf) -> None:
    async with example_of("github") as example:
        await example.send()
        await ended(example, "github", 13)
        await ended(example, "github", 2, "dead")
        issues, requests, pushes = map(example.answer, example.commands_with("oncecast sql"))
        assert await issues == [
            ["example-org/lantern", 1, "closed", "It smokes no more"],
            ["example-org/lantern", 2, "open", "A handle, please"],
            ["example-org/lantern", 3, "deleted", "Spam"],
            ["example-org/lantern", 5, "open", "Came without an action in its type"],
        ]
        assert await requests == [["example-org/lantern", 4, "closed", True, "Add a brass handle"]]
        assert await pushes == [
            ["example-org/lantern", "refs/heads/main", 2, "robin-example"],
            ["example-org/lantern", "refs/tags/v1", 0, "kim-example"],
        ]
        misfit = "DataInvalid: the data does not fit"
        assert await dead(example, "github") == {
            "delivery-14": f"{misfit} IssueChanged: Field required - at `$.issue.title`",
            "delivery-15": f"{misfit} Pushed: Input should be a valid array - at `$.commits`",
        }


def newest(webhooks: list[dict[str, Any]], kind: str) -> list[tuple[Any, ...]]:
    """Repository, number, title of each issue or pull request as it was last updated."""
    found: dict[tuple[str, int], tuple[str, str, str]] = {}
    for webhook in webhooks:
        if webhook["type"].startswith(f"com.github.{kind}."):
            data = webhook["data"]
            thing = data.get("pull_request") or data["issue"]
            key = (data["repository"]["full_name"], thing["number"])
            found[key] = max(found.get(key, ("", "", "")), (thing["updated_at"], webhook["id"], thing["title"]))
    return sorted((*key, title) for key, (_, _, title) in found.items())


async def test_real_webhooks_go_into_the_same_tables(example_of: ExampleOf) -> None:
    file = os.environ.get("GITHUB_WEBHOOKS")
    if not file:
        pytest.skip("GITHUB_WEBHOOKS names no file of real webhooks")
    webhooks = [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]
    async with example_of("github") as example:
        await example.run(f"oncecast send {file}")
        await ended(example, "github", len(webhooks))
        for kind, table in (("issues", "issues"), ("pull_request", "pull_requests")):
            kept = await rows(example, f"select repository, number, title from {table}")
            assert sorted(kept) == newest(webhooks, kind)
        pushes = sum(webhook["type"] == "com.github.push" for webhook in webhooks)
        assert await rows(example, "select count(*)::int from pushes") == [(pushes,)]


async def test_a_mail_is_sent_once_though_its_handler_fails_after_the_call(example_of: ExampleOf) -> None:
    async with example_of("mail", MAIL_PORT=str(free_port())) as example:
        (service,), (messages,) = example.commands_with("python"), example.commands_with("curl")

        async def answers() -> str:
            return await example.run(f"{messages} || true")

        async with example.running(service):
            await until(answers)
            await example.send()
            await ended(example, "mail", 7)
            await ended(example, "mail", 1, "dead")
            sent = json.loads(await example.run(messages))
            shown = await example.shown()
        text = "Parcel {} is on its way."
        number = {message["text"]: message["number"] for message in sent}
        assert shown == [[f"P-{n}", number[text.format(f"P-{n}")], 2 if n in (3, 6) else 1] for n in range(1, 8)]
        assert sorted((m["to"], m["asked"]) for m in sent) == [
            (f"customer-{n}@example.org", 2 if n in (3, 6) else 1) for n in range(1, 8)
        ]
        assert await dead(example, "mail") == {"sent-8": "Reject: 'nobody' is no address"}
