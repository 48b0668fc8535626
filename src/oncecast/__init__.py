"""Oncecast: broadcast to many, processed once, whatever fails."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oncecast.app.application import App, Call, CallNext, Middleware
    from oncecast.client import NotAcknowledged, Publisher, PublisherClosed, PublishRefused, SyncPublisher
    from oncecast.core.errors import ConfigError, DataInvalid, OncecastError, Reject, Retry, StartError
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

_PLACES = {
    "app.application": ("App", "Call", "CallNext", "Middleware"),
    "client": ("NotAcknowledged", "PublishRefused", "Publisher", "PublisherClosed", "SyncPublisher"),
    "core.errors": ("ConfigError", "DataInvalid", "OncecastError", "Reject", "Retry", "StartError"),
    "core.event": ("Cursor",),
    "core.transaction": ("SyncTransaction", "Transaction"),
    "event": ("Event",),
}


def __getattr__(name: str) -> object:
    """Import a public name when it is used: nobody waits for the parts that they do not use."""
    for module, names in _PLACES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"oncecast.{module}"), name)
            return value
    raise AttributeError(f"module 'oncecast' has no attribute {name!r}")
