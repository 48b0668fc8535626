"""Oncecast: broadcast to many, processed once, whatever fails."""

from oncecast.app.application import App, Call, CallNext, Middleware
from oncecast.client import NotAcknowledged, Publisher, PublisherClosed, PublishRefused, SyncPublisher
from oncecast.core.errors import (
    ConfigError,
    DataInvalid,
    OncecastError,
    Reject,
    Retry,
    StartError,
)
from oncecast.core.event import Cursor
from oncecast.core.transaction import SyncTransaction, Transaction
from oncecast.event import Event

__all__ = [
    "App",
    "Call",
    "CallNext",
    "ConfigError",
    "Cursor",
    "DataInvalid",
    "Event",
    "Middleware",
    "NotAcknowledged",
    "OncecastError",
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
