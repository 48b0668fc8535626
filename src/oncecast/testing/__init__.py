"""Test handlers: `async with TestListener(app) as t: result = await t.send(event)`.

The code of a real listener attempts the event, in memory or on a real PostgreSQL, without delays. For tests that are
not coroutines, use `SyncTestListener` or the pytest fixture `test_listener`.
"""

from oncecast.testing.blocking import MakeTestListener, SyncTestListener
from oncecast.testing.listener import TestListener
from oncecast.testing.results import NotEnded, Result, Statement
from oncecast.testing.scripted import Unanswered

__all__ = ["MakeTestListener", "NotEnded", "Result", "Statement", "SyncTestListener", "TestListener", "Unanswered"]
