"""Check emitted events as a producer would, so that an invalid event fails the handler's attempt."""

from __future__ import annotations

from oncecast.http.problems import Problem
from oncecast.producer.cloudevents.bare import Bare
from oncecast.producer.cloudevents.parse import STRUCTURED, read_publication

EVENT_MAX_BYTES = 1024 * 1024
"""A producer with a lower limit refuses the event later."""


def check_publishable(event: bytes) -> None:
    """Raise ValueError with the reason if no producer would accept this structured event."""
    try:
        read_publication(event, STRUCTURED, Bare(), event_max_bytes=EVENT_MAX_BYTES)
    except Problem as problem:
        raise ValueError(f"the emitted event cannot be published: {problem}") from None
