"""Clients of a producer: publish events to it, and follow its broadcast."""

from oncecast.client.errors import NotAcknowledged, ProducerRefused, PublishRefused
from oncecast.client.publisher import Publisher

__all__ = ["NotAcknowledged", "ProducerRefused", "PublishRefused", "Publisher"]
