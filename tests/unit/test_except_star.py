"""Debian 12's Python 3.11.2 makes a group of whatever is raised below an `except*`, even of SystemExit: a trace."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import oncecast

PACKAGE = Path(oncecast.__file__).parent
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if "except*" in file.read_text("utf-8")]


def raised_below_except_star(tree: ast.AST) -> Iterator[int]:
    """The lines; a bare `raise` gives back what came."""
    handlers = [handler for node in ast.walk(tree) if isinstance(node, ast.TryStar) for handler in node.handlers]
    for node in (node for handler in handlers for node in ast.walk(handler)):
        match node:
            case ast.Call(func=function) if ast.unparse(function) == "sys.exit":
                yield node.lineno
            case ast.Raise(exc=ast.expr()):
                yield node.lineno


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_is_raised_below_an_except_star(file: Path) -> None:
    assert list(raised_below_except_star(ast.parse(file.read_text("utf-8")))) == []


def test_what_is_raised_there_is_seen() -> None:
    code = """
try:
    f()
except* OSError:
    raise
except* ValueError:
    sys.exit(1)
except* KeyError as e:
    raise e
"""
    assert list(raised_below_except_star(ast.parse(code))) == [7, 9]
