"""Clients of a producer: publish events to it, and follow its broadcast."""

from oncecast.client.errors import NotAcknowledged, ProducerRefused, PublisherClosed, PublishRefused
from oncecast.client.publisher import Publisher
from oncecast.client.sync import SyncPublisher

__all__ = ["NotAcknowledged", "ProducerRefused", "PublishRefused", "Publisher", "PublisherClosed", "SyncPublisher"]
