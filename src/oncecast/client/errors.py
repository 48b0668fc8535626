"""Errors of clients: a person must fix a refusal; an unacknowledged event can be published again."""

from __future__ import annotations

from oncecast.core.errors import OncecastError, Portable, Unavailable


class ProducerRefused(OncecastError):
    """The producer refuses for good: a wrong token, a wrong address, another protocol."""


class PublishRefused(Portable, ProducerRefused):
    """The producer refuses an event or the whole request. A retry would not help.

    `position` counts the events of the call from 1; it is None if no single event caused the refusal. `accepted`
    events of the call are on the producer's disk nevertheless.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int,
        position: int | None = None,
        event_id: str | None = None,
        accepted: int = 0,
    ) -> None:
        self.reason = reason
        self.status = status
        self.position = position
        self.event_id = event_id
        self.accepted = accepted
        super().__init__(reason)

    def __str__(self) -> str:
        event = f"event {self.event_id or self.position} is refused: " if self.position else "refused: "
        return event + self.reason


class NotAcknowledged(Portable, Unavailable):
    """The producer did not acknowledge within the deadline.

    `accepted` events of the call are on disk; any other event may be. It is safe to publish the same events again,
    because their ids are the same.
    """

    def __init__(self, reason: str, *, deadline_s: float, accepted: int = 0) -> None:
        self.reason = reason
        self.deadline_s = deadline_s
        self.accepted = accepted
        super().__init__(reason)

    def __str__(self) -> str:
        accepted = "none" if self.accepted == 0 else f"{self.accepted:,}"
        return f"not acknowledged within {self.deadline_s:g} s ({accepted} accepted before): {self.reason}"


class PublisherClosed(OncecastError):
    """The publisher was closed before or during the call. The events may be accepted or not."""

    def __str__(self) -> str:
        return "this publisher is closed"
