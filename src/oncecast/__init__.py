"""Oncecast: broadcast to many, processed once, whatever fails."""

from oncecast.app.application import Call, Listener, Middleware, Proceed
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
