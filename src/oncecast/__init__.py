"""Oncecast: broadcast to many, processed once, whatever fails."""

from oncecast.client import NotAcknowledged, Publisher, PublishRefused, SyncPublisher
from oncecast.core.errors import Reject, Retry
from oncecast.core.event import Event
from oncecast.core.transaction import SyncTransaction, Transaction
from oncecast.listener.handlers import Call, Listener, Proceed

__all__ = [
    "Call",
    "Event",
    "Listener",
    "NotAcknowledged",
    "Proceed",
    "PublishRefused",
    "Publisher",
    "Reject",
    "Retry",
    "SyncPublisher",
    "SyncTransaction",
    "Transaction",
]
