"""One id that is sent again and again holds nobody up."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.support.stacks import StackOf, drained, rows, until

APP = """
from oncecast import App, Event, Transaction

app = App("oncecast")

@app.on("handled")
async def handle(event: Event, tx: Transaction) -> None:
    await tx.execute("select 1")

@app.on("ordered", ordered_by="subject")
async def handle_in_order(event: Event, tx: Transaction) -> None:
    await tx.execute("select 1")
"""
COPIES = 10_000


def event(type_: str, number: int, id_: str = "one") -> str:
    return (
        f'{{"specversion":"1.0","id":"{id_}","source":"/s","type":"{type_}","subject":"k","data":{{"n":{number}}}}}'
    )


@pytest.mark.parametrize("type_", ["stored", "handled", "ordered"])
async def test_an_event_behind_thousands_of_copies_and_conflicts_of_one_id_is_stored_and_all_of_them_end(
    stack_of: StackOf, tmp_path: Path, type_: str
) -> None:
    (tmp_path / "repeated.py").write_text(APP)
    async with (
        stack_of(app="repeated:app", app_dir=tmp_path, listeners=2) as stack,
        httpx2.AsyncClient(base_url=stack.publish_url, timeout=60) as client,
    ):
        headers = {"content-type": "application/x-ndjson"}
        copies = [event(type_, 0 if n < COPIES // 2 else n) for n in range(COPIES)]
        for begin in range(0, COPIES, 1_000):
            batch = "\n".join(copies[begin : begin + 1_000])
            assert (await client.post("/events", content=batch, headers=headers)).status_code == 202
        answer = await client.post("/events", content=event(type_, 1, "other"), headers=headers)
        assert answer.status_code == 202

        async def other_is_stored() -> bool:
            return bool(await rows(stack, "select 1 from oncecast.events where id = 'other'"))

        await until(other_is_stored)
        await drained(stack)
        assert await rows(stack, "select count(*) from oncecast.events") == [(2,)]
        assert await rows(stack, "select count(*) from oncecast.conflicts") == [(COPIES // 2,)]
