"""Oncecast: broadcast to many, processed once, whatever fails."""

from oncecast.client.publisher import Publisher
from oncecast.core.errors import Reject
from oncecast.core.event import Event
from oncecast.core.ports import Transaction
from oncecast.listener.handlers import Listener

__all__ = ["Event", "Listener", "Publisher", "Reject", "Transaction"]
