"""Statements in the block of an open savepoint are distinguished from those of other tasks."""

from __future__ import annotations

import asyncio

import pytest

from oncecast.core.savepoints import MIXED, STILL_OPEN, Savepoints


async def test_statements_of_its_block_and_of_tasks_started_there_belong_to_a_savepoint() -> None:
    savepoints = Savepoints()

    async def write() -> None:
        savepoints.note("insert")

    outer, inner = savepoints.new(), savepoints.new()
    with savepoints.block_of(outer):
        await asyncio.create_task(write())
        with savepoints.block_of(inner):
            savepoints.note()
    savepoints.note()
    for number in (inner, outer):
        savepoints.undone(number)
    assert savepoints.fault is None


async def test_statements_of_tasks_started_elsewhere_are_in_every_open_savepoint() -> None:
    savepoints, opened = Savepoints(), asyncio.Event()

    async def write() -> None:
        await opened.wait()
        savepoints.note("insert")

    other = asyncio.create_task(write())
    with savepoints.block_of(1), savepoints.block_of(2):
        opened.set()
        await other
    with savepoints.block_of(3):
        pass
    found = []
    for number in (3, 2, 1):
        savepoints.undone(number)
        found.append(savepoints.fault)
    assert found == [None, MIXED, MIXED]


def test_a_savepoint_that_is_still_open_is_a_fault() -> None:
    savepoints = Savepoints()
    with savepoints.block_of(savepoints.new()):
        assert savepoints.fault == STILL_OPEN
    assert savepoints.fault is None


@pytest.mark.parametrize(
    ("query", "writes"),
    [
        ("select 1", False),
        (" Select 1", False),
        ("values (1)", False),
        ("select count(*), coalesce(max(n), 0) from t where id in (1, 2)", False),
        ("select enqueue_job(1)", True),
        ("select pg_advisory_xact_lock(1)", True),
        ('select "Enqueue"(1)', True),
        ("select * into t2 from t", True),
        ("select * from (select * from t)for update", True),
        ("select * from t for update skip locked", True),
        ("select * from t for key share", True),
        ("with x as (delete from t returning *) select * from x", True),
        ("update t set n = 1", True),
        ("/* why */ select 1", True),
    ],
)
async def test_a_statement_that_only_reads_leaves_nothing_to_lose(query: str, writes: bool) -> None:
    savepoints, opened = Savepoints(), asyncio.Event()

    async def do() -> None:
        await opened.wait()
        savepoints.note(query)

    other = asyncio.create_task(do())
    with savepoints.block_of(1):
        opened.set()
        await other
    savepoints.undone(1)
    assert savepoints.fault == (MIXED if writes else None)
