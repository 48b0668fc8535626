"""Tests of handlers: `async with TestListener(app) as t: result = await t.send(event)`.

The same stations as in a listener attempt the event, in memory or on a real PostgreSQL; nothing waits in real time.
`pytest_plugins = ["oncecast.testing.plugin"]` in a `conftest.py` brings the fixture `test_listener`, for tests that
are no coroutines.
"""

from oncecast.testing.listener import TestListener
from oncecast.testing.results import Result
from oncecast.testing.scripted import Statement

__all__ = ["Result", "Statement", "TestListener"]
