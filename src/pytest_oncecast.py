"""The pytest plugin of Oncecast: the fixture `test_listener`.

It is a separate module, so that test runs that do not use it do not import Oncecast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from oncecast import App
    from oncecast.testing import MakeTestListener, SyncTestListener


@pytest.fixture
def test_listener() -> Iterator[MakeTestListener]:
    """Make test listeners for tests that are not coroutines: `test_listener(app, postgres=True).send(event)`.

    It takes the arguments of `oncecast.testing.TestListener`; each listener ends with the test.
    """
    from oncecast.testing import SyncTestListener

    with ExitStack() as begun:

        def make(app: App, **options: Any) -> SyncTestListener:
            return begun.enter_context(SyncTestListener(app, **options))

        yield make


def pytest_unconfigure() -> None:
    """Stop the embedded PostgreSQL at the end of the test run."""
    servers = sys.modules.get("oncecast.testing.servers")
    if servers is not None:
        servers.end_server()
