"""Oncecast's pytest plugin: the fixture `test_listener`.

It is a module of its own, so that a test run that does not use it loads no Oncecast.
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
    """Makes test listeners for tests that are no coroutines: `test_listener(app, postgres=True).send(event)`.

    It takes what `oncecast.testing.TestListener` takes; each ends with the test.
    """
    from oncecast.testing import SyncTestListener

    with ExitStack() as begun:

        def make(app: App, **options: Any) -> SyncTestListener:
            return begun.enter_context(SyncTestListener(app, **options))

        yield make


def pytest_unconfigure() -> None:
    """The embedded PostgreSQL ends with the test run."""
    servers = sys.modules.get("oncecast.testing.servers")
    if servers is not None:
        servers.end_server()
