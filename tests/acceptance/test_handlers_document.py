"""Every block of the pages about handlers is code that an application takes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from oncecast import App
from tests.support.documents import blocks

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "reference/handlers.md",
    "how-to/emit-events.md",
    "how-to/batch-events.md",
    "how-to/order-events.md",
    "how-to/run-blocking-code.md",
)
TEXT = "".join((DOCS / page).read_text("utf-8") for page in PAGES)
CODE = [block.text for block in blocks(TEXT) if block.language == "python"]


Run = Callable[[str], dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the first block and another one as a module; gives its names."""

    def run(code: str) -> dict[str, Any]:
        module = ModuleType("document")
        monkeypatch.setitem(sys.modules, "document", module)
        exec(compile(CODE[0] + code, PAGES[0], "exec", dont_inherit=True), module.__dict__)
        return module.__dict__

    return run


@pytest.mark.parametrize("code", CODE[1:], ids=lambda code: re.findall(r"def (\w+)", code)[-1])
def test_every_block_is_code_whose_handlers_are_registered(code: str, run: Run) -> None:
    app = run(code)["app"]
    assert isinstance(app, App)
    for decorator in re.findall(r"^@app\.on(?:_batch)?\((.*)\)$", code, re.M):
        for type_ in re.findall(r'(?<!=)"([a-z]+\.[a-z*]+)"', decorator):
            assert app.concerns(type_.replace("*", "any")), type_


def test_every_decorator_in_the_tables_is_taken(run: Run) -> None:
    decorators = re.findall(r"`(@app\.[^`]+\))`", TEXT)
    assert len(decorators) > 5
    for decorator in decorators:
        run(f"{decorator}\nasync def handler(event): ...\n")


async def test_the_test_that_is_shown_runs(run: Run) -> None:
    (reserve,) = [code for code in CODE if "def reserve(" in code]
    (test,) = [code for code in CODE if "TestListener" in code]
    names = run(reserve + test)
    await names["test_an_order_is_reserved"]()
