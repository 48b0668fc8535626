"""What users need by name is there to be imported from `oncecast`."""

from __future__ import annotations

import inspect
import re

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
