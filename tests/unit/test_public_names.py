"""What users need by name is there to be imported from `oncecast`."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

import oncecast
from oncecast.client import errors as client_errors
from oncecast.core import errors

ERRORS = {
    name
    for module in (errors, client_errors)
    for name, member in vars(module).items()
    if isinstance(member, type) and issubclass(member, Exception) and not name.startswith("_")
}


@pytest.mark.parametrize("name", oncecast.__all__)
def test_every_error_that_a_public_docstring_names_is_public(name: str) -> None:
    member = getattr(oncecast, name)
    of_it = [member, *vars(member).values()] if isinstance(member, type) else []
    reported = " ".join(inspect.getdoc(each) or "" for each in of_it if callable(each))
    assert set(re.findall(r"\w+", reported)) & ERRORS <= set(oncecast.__all__)


@pytest.mark.parametrize("name", ["Cursor", "Middleware", "OncecastError", "ConfigError", "DataInvalid"])
def test_what_public_calls_return_take_and_raise_is_public(name: str) -> None:
    assert name in oncecast.__all__
    assert hasattr(oncecast, name)


def test_all_is_in_order_and_there() -> None:
    assert sorted(oncecast.__all__) == oncecast.__all__
    assert [name for name in oncecast.__all__ if not hasattr(oncecast, name)] == []


def test_no_two_modules_have_public_classes_of_one_name() -> None:
    """The applications of `oncecast chaos` are excluded: each has its own events."""
    files = [path for path in Path(oncecast.__file__).parent.rglob("*.py") if path.parent.name != "applications"]
    nodes = [node for path in files for node in ast.parse(path.read_text("utf-8")).body]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_public_name_of_the_package_can_be_imported_and_no_other() -> None:
    assert [name for name in oncecast.__all__ if not hasattr(oncecast, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        oncecast.nothing  # noqa: B018
