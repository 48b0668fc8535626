"""Run the commands of a document in a terminal, and compare the output with the document."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import sys
from pathlib import Path

from tests.support.documents import Block, blocks
from tests.support.stacks import RunningStack


def addressed(script: str, stack: RunningStack) -> str:
    """`script` with the addresses of `stack` instead of the usual ones."""
    for port, address in (("8080", stack.publish_url), ("3001", stack.listener_urls["listener-a"])):
        script = script.replace(f"localhost:{port}", address.removeprefix("http://"))
    return script.replace("oncecast send", f"oncecast send --to {stack.publish_url}")


async def shown(script: str, folder: Path, *, status: int | None = None) -> str:
    """What a terminal shows of `script`, run in `folder`; `status` is what it ends with, if one is given."""
    script = script if status is None else f"set -eo pipefail\n{script}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    master, slave = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", script, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=slave, stderr=slave,
            env={**_environment(), "PATH": path, "COLUMNS": "160", "TERM": "xterm", "XDG_RUNTIME_DIR": str(folder)},
        )  # fmt: skip
        os.close(slave)
        reading = asyncio.create_task(asyncio.to_thread(read_all, master))
        async with asyncio.timeout(90):
            await process.wait()
            text = await reading
        assert status in (None, process.returncode), f"{script}\n{text}"
        return text
    finally:
        os.close(master)


def read_all(descriptor: int) -> str:
    text = b""
    try:
        while block := os.read(descriptor, 65536):
            text += block
    except OSError:
        pass  # how Linux says that the other side is closed
    time_left = r"[\d-]:[\d-]{2}:[\d-]{2}"
    replaying = rf"(?:replaying|exporting) ━.*?{time_left}"  # progress bars, which the terminal erases again
    sending = rf"[⠀-⣿] +[\d,]+ accepted +[\d,]+/s +[━╸╺]*(?: +{time_left})?"
    progress = rf"{replaying}|{sending}"
    return re.sub(rf"\x1b\[[0-9;?]*[A-Za-z]|\r|{progress}", "", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode()))


def looks_like(seen: str, reported: str) -> bool:
    """`…` stands for anything; rulers, blank lines and how many spaces there are do not count."""
    pattern = ".*".join(re.escape(part) for part in "\n".join(_lines(reported)).split("…"))
    return re.fullmatch(pattern, "\n".join(_lines(seen)), re.S) is not None


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]


def pairs(document: Path) -> list[tuple[Block, str]]:
    """Return each block to run and its expected output, empty if no output follows."""
    found = blocks(document.read_text("utf-8"))
    followers = [*found[1:], Block("", "", "")]
    return [(b, f.text if f.language == "text" else "…") for b, f in zip(found, followers, strict=True) if b.mark]


def _environment() -> dict[str, str]:
    """Return an environment without the variables of the test run; pip installs nothing, because all is there."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return {**ours, "PIP_NO_INDEX": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
