"""Both faces do what their documents say, whatever is asked of them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from oncecast import Event, Publisher
from tests.acceptance.test_recovery import FAILING, dead_letters
from tests.support.stacks import StackOf

EXAMPLES = 60
SEED = 7
"""Fixed, so that a failure comes from a change and not from the seed; other seeds are tried by hand."""
FOLDER = Path(__file__).parents[1] / "support"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("face", ["producer", "listener"])
async def test_schemathesis_finds_nothing(stack_of: StackOf, face: str, tmp_path: Path) -> None:
    async with stack_of(listeners=1, environment=FAILING) as stack:
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish_many(
                [Event.new("oncecast.failing", {"fails": True}, id=f"f{n}") for n in range(3)]
            )
        await dead_letters(stack, 3)
        url = stack.publish_url if face == "producer" else stack.listener_urls["listener-a"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("--config-file", str(FOLDER / "schemathesis.toml"), "run", f"{url}/openapi.json"),
            *("--max-examples", str(EXAMPLES), "--seed", str(SEED), "--no-color"),
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
                "PYTHONPATH": str(FOLDER.parents[1]),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
