"""The tutorial, followed: each block is done in its order, and what it says is shown is shown."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.documents import Block, blocks
from tests.support.shown import looks_like, pairs, shown
from tests.support.stacks import until
from tests.support.terminals import ROOT, Terminal

TUTORIAL = ROOT / "docs/tutorial.md"


def test_every_block_is_done_or_is_what_one_shows() -> None:
    found = blocks(TUTORIAL.read_text("utf-8"))
    for before, block in zip([Block("", "", ""), *found], found, strict=False):
        assert block.mark or (block.language == "text" and before.mark), block.text
        written = re.search(r"written to (\S+)", block.mark)
        assert (block.language == "python") == bool(written), block.text


@pytest.mark.timeout(400)
async def test_the_tutorial_shows_what_it_says_step_by_step(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, {})
    async with AsyncExitStack() as first_terminal:
        for block, reported in pairs(TUTORIAL):
            if written := re.search(r"written to (\S+)", block.mark):
                (tmp_path / written[1]).write_text(block.text)
            elif "in the first terminal" in block.mark:
                await first_terminal.aclose()
                await first_terminal.enter_async_context(terminal.up(block.text.strip()))
            else:
                await assert_shows(block, reported, terminal)


async def assert_shows(block: Block, reported: str, terminal: Terminal) -> None:
    seen = ""

    async def as_documented() -> bool:
        nonlocal seen
        seen = await shown(terminal.addressed(block.text), terminal.folder, status=0)
        return looks_like(seen, reported)

    tries = until(as_documented, 60.0) if "again" in block.mark else as_documented()
    assert await tries, f"{block.text}\n{seen}"
