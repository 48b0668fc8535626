"""Oncecast: broadcast to many, processed once, whatever fails."""

from oncecast.client import NotAcknowledged, Publisher, PublisherClosed, PublishRefused, SyncPublisher
from oncecast.core.errors import (
    ConfigError,
    DataInvalid,
    OncecastError,
    ProceededTwice,
    Reject,
    Retry,
    StartError,
)
from oncecast.core.event import Cursor, Event
from oncecast.core.transaction import SyncTransaction, Transaction
from oncecast.listener.handlers import Call, Listener, Middleware, Proceed

__all__ = [
    "Call",
    "ConfigError",
    "Cursor",
    "DataInvalid",
    "Event",
    "Listener",
    "Middleware",
    "NotAcknowledged",
    "OncecastError",
    "Proceed",
    "ProceededTwice",
    "PublishRefused",
    "Publisher",
    "PublisherClosed",
    "Reject",
    "Retry",
    "StartError",
    "SyncPublisher",
    "SyncTransaction",
    "Transaction",
]
