"""`oncecast chaos` injects faults into a whole system, and its verdict is the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.test_recovery import oncecast


async def test_a_short_run_is_valid_and_reports_its_faults(tmp_path: Path) -> None:
    history = tmp_path / "history.ndjson"
    run = ("chaos", "--seconds", "15", "--seed", "7", "--rate", "500", "--listeners", "2", "--producers", "1")
    status, out, error = await oncecast(*run, "--history", str(history), "--json", within_s=170)
    report = json.loads(out)
    assert (status, report["valid"], report["seed"]) == (0, True, 7), (report, error)
    assert report["verdict"]["acknowledged"] > 1_000
    assert report["events_checked"] > 1_000, "the cursors were watched"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert sum(line["what"] == "fault" for line in lines) == report["faults"] > 0
    assert lines[-1]["what"] == "verdict"


async def test_an_invalid_flag_is_one_line() -> None:
    status, _, error = await oncecast("chaos", "--faults", "fire")
    assert (status, error) == (
        1,
        "oncecast: invalid value for --faults: 'fire' (expected all, or a list of kill, stop, pause, cut, freeze,"
        " delay, reset, drop, empty, refuse, full, restore, crash)\n",
    )


SHOP = '''
import random
from oncecast import App, Event, Transaction

app = App("shop")

@app.on("order.created")
async def reserve(order: dict, event: Event, tx: Transaction) -> None:
    await tx.execute("update stock set free = free - 1 where sku = %s", (order["sku"],))
    await event.emit(Event.new("order.reserved", order))

@app.on("order.reserved")
async def confirm(order: dict, tx: Transaction) -> None:
    await tx.execute("update stock set confirmed = confirmed + 1 where sku = %s", (order["sku"],))

def chaos_events(draw):
    while True:
        yield Event.new("order.created", {"sku": draw.choice("ab")})

chaos_setup = """
create table stock (sku text, free integer, confirmed integer);
insert into stock values ('a', 1000000, 0), ('b', 1000000, 0)
"""
chaos_checks = {
    "free and confirmed equal orders": """
        select * from stock where confirmed <> 1000000 - free or confirmed <>
            (select count(*) from shop.events e where type = 'order.created' and e.data->>'sku' = stock.sku)
    """,
}
'''


async def test_a_users_application_is_tested_with_its_follow_ups_and_checks(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    run = ("chaos", "--app", "shop:app", "--app-dir", str(tmp_path), "--seconds", "15", "--seed", "7")
    smaller = ("--rate", "100", "--listeners", "2", "--producers", "1", "--json")
    status, out, error = await oncecast(*run, *smaller, within_s=170)
    report = json.loads(out)
    assert (status, report["valid"], report["app"]) == (0, True, "shop:app"), (out, error)
    verdict = report["verdict"]
    assert verdict["attempted"] == verdict["emitted"] > 100
    assert verdict["stored"] == 2 * verdict["attempted"]


async def test_a_check_that_finds_something_makes_the_run_invalid_and_is_shown(tmp_path: Path) -> None:
    checks = (
        '\nchaos_checks = {"nothing is sold": "select sku, true as sold from stock where confirmed > 0 order by 1"}\n'
    )
    (tmp_path / "shop.py").write_text(SHOP + checks)
    run = ("chaos", "--app", "shop:app", "--app-dir", str(tmp_path), "--seconds", "2", "--seed", "7")
    smaller = ("--rate", "100", "--listeners", "1", "--producers", "1", "--faults", "empty", "--no-json")
    status, out, _ = await oncecast(*run, *smaller, within_s=170)
    assert status == 1
    assert "nothing is sold: 2 violations\n  sku a, sold True\n" in out
    assert out.endswith("NOT VALID.\n")


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("", ("--app", "shop"), "invalid application 'shop': expected module:name, such as shop:app"),
        ("", ("--app", "nowhere:app"), "there is no module 'nowhere' in {folder}; --app-dir names another folder"),
        ("", ("--app", "shop:app"), "shop:app: the module has no oncecast.App named 'app'"),
        (
            SHOP.replace("chaos_events", "events"),
            ("--app", "shop:app"),
            "there are no events to publish: write 'def chaos_events(draw: random.Random) -> Iterator[Event]' in"
            " module shop, or name a file with --events",
        ),
        (
            SHOP,
            ("--app", "shop:app", "--faults", "crash"),
            "invalid value for --faults: 'crash' (expected all, or a list of kill, stop, pause, cut, freeze,"
            " delay, reset, drop, empty, refuse, full, restore)",
        ),
        (
            SHOP,
            ("--events", "orders.ndjson"),
            "--events goes with --app: the built-in application has its own events",
        ),
        (
            SHOP.replace("select * from stock where", "selec * from stock where"),
            ("--app", "shop:app"),
            "PostgreSQL does not take chaos_checks['free and confirmed equal orders']: syntax error at or near"
            ' "selec" (its line 2)',
        ),
        (
            SHOP.replace("create table stock", "create tabel stock"),
            ("--app", "shop:app"),
            'PostgreSQL does not take chaos_setup: syntax error at or near "tabel" (its line 2)',
        ),
    ],
)
async def test_a_mistake_in_a_users_module_is_one_line(
    tmp_path: Path, module: str, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "shop.py").write_text(module)
    status, out, error = await oncecast(
        "chaos", *options, "--app-dir", str(tmp_path), "--seconds", "1", "--seed", "1"
    )
    assert (status, out) == (1, "")
    lines = [line for line in error.splitlines() if not line.startswith("seed ")]
    assert lines == [f"oncecast: {message.format(folder=tmp_path)}"]
