"""What the documents tell people to type is understood, what they quote is said, and where they lead is a place."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from cyclopts import MissingArgumentError

from oncecast.config import ListenerConfig, ProducerConfig, load
from oncecast.core import telemetry as telemetry_events
from oncecast.observe.logs import console_line
from tests.support.command import check_command
from tests.support.documents import Block, blocks, mentioned, typed
from tests.support.shown import addressed, looks_like, pairs, shown
from tests.support.stacks import StackOf, until

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
    if path.parent.name != "decisions" and path.name != "CHANGELOG.md"
)
RECOVERY = ROOT / "docs/how-to/dead-letters.md"
SETTINGS = {name.upper() for kind in (ProducerConfig, ListenerConfig) for name in kind.__dataclass_fields__}
OF_OTHERS = {"POSTGRES_PASSWORD", "POSTGRES_USER", "AWS_ACCESS_KEY_ID", "POSTGRES_DB"}

of_each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@of_each_document
def test_every_command_is_one_that_oncecast_understands(document: Path) -> None:
    with tempfile.NamedTemporaryFile() as file:  # for commands that want a file to be there
        for words in typed(document):
            check_command([file.name if word.endswith("ndjson") else word for word in words])
    for words in mentioned(document):
        for first in words[0].split("|"):  # `oncecast stop|start|kill NAME`
            with contextlib.suppress(MissingArgumentError):
                check_command([first, *words[1:]])


@of_each_document
def test_every_setting_is_one_and_its_value_will_do(document: Path) -> None:
    named = re.findall(r"`([A-Z]{2,}(?:_[A-Z]+)+)(?:=([^`\s]*))?`", document.read_text("utf-8"))
    for name, value in named:
        setting = name.removesuffix("_FILE")
        assert setting in SETTINGS | OF_OTHERS, name
        kinds = [kind for kind in (ProducerConfig, ListenerConfig) if setting.lower() in kind.__dataclass_fields__]
        for kind in kinds if value and setting == name else []:
            load(kind, {name: value})


@of_each_document
def test_every_link_leads_to_a_file_and_its_heading(document: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text("utf-8")):
        file = document.parent / target if target else document
        assert "://" in target or file.exists(), target
        if heading and "://" not in target:
            titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.M)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, heading


@of_each_document
def test_every_module_that_is_named_is_there(document: Path) -> None:
    for path in re.findall(r"`((?:src|tests|tools|benchmarks|examples)/[\w/]+\.\w+)`", document.read_text("utf-8")):
        assert (ROOT / path).exists(), path


def test_every_test_that_the_documents_name_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/explanation/verification.md").read_text("utf-8")))
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.M)
    }
    assert len(named) > 50
    assert not named - there


# --- what the console says --------------------------------------------------------------------------------


def sayings() -> Iterator[re.Pattern[str]]:
    """Every line that the console can say, with anything where a value stands."""
    for telemetry in vars(telemetry_events).values():
        if isinstance(telemetry, type) and issubclass(telemetry, telemetry_events.TelemetryEvent):
            hints = get_type_hints(telemetry)
            for count in (1, 98765):
                for name in ("redis", "database", "broker", "VALUE"):
                    for flag in (False, True):
                        values = {field: value(hints[field], count, flag) for field in telemetry.__struct_fields__}
                        if "name" in values:
                            values["name"] = name
                        try:
                            line = console_line(telemetry(**values), "VALUE")
                        except KeyError:
                            continue  # a base class, or a name that this event never has
                        yield re.compile(re.sub(r"VALUE|98765(?:\.0|000)?", ".+", re.escape(line)))


def value(hint: Any, count: int, flag: bool) -> Any:
    return {str: "VALUE", int: count, float: 98765.0, bool: flag}.get(hint, "retries")


@of_each_document
def test_every_console_line_that_is_quoted_can_be_said(document: Path) -> None:
    can_be_said = list(sayings())
    for block in blocks(document.read_text("utf-8")):
        for line in block.text.splitlines() if block.language == "text" else []:
            if line.startswith(("✅", "❌", "⚠️", "🔄", "📝", "⏸", "· ")):
                assert any(pattern.fullmatch(line) for pattern in can_be_said), line


# --- recovery, as it stands -------------------------------------------------------------------------------


async def test_recovery_shows_what_it_says_step_by_step(stack_of: StackOf, tmp_path: Path) -> None:
    async with stack_of(environment={"EVENT_RETRY_DELAY": "100ms"}) as stack:
        (tmp_path / ".oncecast").symlink_to(stack.data)
        for block, reported in pairs(RECOVERY):
            seen = ""

            async def as_documented(block: Block = block, reported: str = reported) -> bool:
                nonlocal seen
                seen = await shown(addressed(block.text, stack), tmp_path)
                return looks_like(seen, reported)

            tries = until(as_documented, 20.0) if "again" in block.mark else as_documented()
            assert await tries, f"{block.text}\n{seen}"
