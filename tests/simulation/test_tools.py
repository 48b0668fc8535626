"""The tools of simulation: virtual time, owners that vanish and freeze, and shrinking."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import types
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.simulation.changes import PACKAGE, always, changed, instead, markers, never, replaced
from tests.simulation.loop import NothingLeft, Spinning, VirtualLoop, begin, owned_by
from tests.simulation.many import pool
from tests.simulation.schedule import Schedule, draw_schedule
from tests.simulation.shrink import shrink


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.abandon()


def test_an_hour_passes_at_once(loop: VirtualLoop) -> None:
    began_s = loop.time()
    loop.run_until_complete(asyncio.sleep(3_600))
    assert loop.time() - began_s == 3_600


def test_a_vanished_owner_does_nothing_more_not_even_cleanup(loop: VirtualLoop) -> None:
    done: list[object] = []

    async def work() -> None:
        try:
            await asyncio.sleep(2)
        finally:
            done.append("cleaned up")

    async def main() -> None:
        with owned_by("listener#1"):
            begin(work())
        await asyncio.sleep(1)
        loop.vanish("listener#1")
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    assert done == []


def test_a_scheduled_crash_can_strike_between_two_steps_that_take_no_time(loop: VirtualLoop) -> None:
    done: list[object] = []

    async def work() -> None:
        for n in range(10):
            done.append(n)
            await asyncio.sleep(0)

    async def main() -> None:
        with owned_by("listener#1"):
            begin(work())
        loop.strike_after("listener#1", 3, lambda: loop.vanish("listener#1"))
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    assert done == [0, 1, 2]


def test_a_thawed_owner_does_what_it_missed(loop: VirtualLoop) -> None:
    done: list[object] = []

    async def work() -> None:
        await asyncio.sleep(2)
        done.append(loop.time() - 1_000)

    async def main() -> None:
        with owned_by("listener#1"):
            begin(work())
        await asyncio.sleep(1)
        loop.freeze("listener#1")
        await asyncio.sleep(9)
        assert done == []
        assert loop.thaw("listener#1") > 0
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    assert done == [10]


def test_a_deadlocked_run_ends(loop: VirtualLoop) -> None:
    with pytest.raises(NothingLeft):
        loop.run_until_complete(asyncio.Event().wait())


def test_a_run_with_an_endless_loop_ends(loop: VirtualLoop) -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Spinning):
        loop.run_until_complete(spin())


def test_a_failing_schedule_is_shrunk_while_it_still_fails() -> None:
    schedule = next(s for s in map(draw_schedule, range(100)) if len(s.actions) > 5 and s.listeners == 3)
    kind, id_ = schedule.actions[3].kind, schedule.publications[1][2][0]

    def fails(tried: Schedule) -> bool:
        ids = [id_ for _, _, ids in tried.publications for id_ in ids]
        return id_ in ids and any(action.kind == kind for action in tried.actions)

    smallest = shrink(schedule, fails)
    assert [ids for _, _, ids in smallest.publications] == [(id_,)]
    assert [action.kind for action in smallest.actions] == [kind]
    assert smallest.listeners == 2


LEFT_BEHIND: list[object] = []


def leave_behind(number: int) -> int:
    """Leave a vanished task behind, as a run does, which would log an error if it were cleaned up."""

    @types.coroutine
    def waits() -> Generator[None, None, None]:
        yield

    async def vanished() -> None:
        try:
            await waits()
        finally:
            await waits()

    work = vanished()
    work.send(None)
    LEFT_BEHIND.append(work)
    return number


def end_processes() -> None:
    with pool(1, chunks_of_a_process=1) as processes:
        print(*processes.imap(leave_behind, range(2)))
        processes.close()
        processes.join()


def test_simulation_processes_end_without_output() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code = "from tests.simulation.test_tools import end_processes; end_processes()"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("0 1\n", "")


@pytest.mark.parametrize("folder", ["listener", "stores/redis"])
def test_a_planted_fault_that_the_code_has_no_place_for_is_refused(folder: str) -> None:
    place = next(marker for marker in markers() if marker.path.is_relative_to(PACKAGE / folder))
    with pytest.raises(ValueError, match=r"nowhere|Python code only"):
        changed(place, instead("nowhere()"))
    with pytest.raises(ValueError, match="is 0 times"):
        changed(place, replaced("nowhere", ""))


def test_a_change_of_a_condition_in_sql_or_lua_leaves_its_words_and_its_lines() -> None:
    when = "    when (a = 1\n        and b)\n    then c"
    assert never().of_clause("    when (a = 1) then c") == "    when (((a = 1)) and false) then c"
    assert always().of_clause(when) == "    when (((a = 1\n        and b)) or true)\n    then c"
    with pytest.raises(ValueError, match="no condition"):
        never().of_clause("select a")
