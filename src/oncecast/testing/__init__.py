"""Tests of handlers: `async with TestListener(app) as t: result = await t.send(event)`.

The stations of a real listener attempt the event, in memory or on a real PostgreSQL; nothing waits in real time. For
tests that are no coroutines there is `SyncTestListener`, and the pytest fixture `test_listener`, which makes them.
"""

from oncecast.testing.blocking import MakeTestListener, SyncTestListener
from oncecast.testing.listener import TestListener
from oncecast.testing.results import NotEnded, Result, Statement
from oncecast.testing.scripted import Unanswered

__all__ = ["MakeTestListener", "NotEnded", "Result", "Statement", "SyncTestListener", "TestListener", "Unanswered"]
