"""Check that a producer owns the journal that it names, and that only one feed reads a journal.

A producer names its journal in the welcome, and the group's cursor in that journal moves by what this producer sends.
So it must show the journal's key. The group stores the hash of the key in PostgreSQL when it first
reads the journal.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING

from oncecast.core.ports import Cursors
from oncecast.core.wire import Welcome

if TYPE_CHECKING:
    from oncecast.listener.feed.feed import Feed


class ProducerError(Exception):
    """The producer sent something that the protocol `oncecast.v1` does not allow."""


class Journals:
    """The journals that the feeds of this process read; each is read by one feed at a time."""

    def __init__(self, store: Cursors, group: str) -> None:
        self._store = store
        self._group = group
        self._hashes: dict[str, str] = {}
        """The verified hash of each journal's key."""
        self._connected: dict[str, Feed] = {}
        self._last: dict[str, Feed] = {}

    def has_met(self, welcome: Welcome) -> bool:
        """Return whether this process has checked this key before."""
        known = self._hashes.get(welcome.journal)
        return known is not None and compare_digest(known, _hash(welcome))

    async def meet(self, url: str, welcome: Welcome) -> None:
        """Raise ProducerError unless the welcome shows the key of the journal that the group has met by this name.

        A journal that the group has never met is remembered with the key that is shown now.
        """
        if welcome.key is None:
            raise ProducerError(
                f"{url} does not accept this process as a listener of {self._group!r}: LISTENER_TOKEN is missing, or"
                " is not in the LISTENER_TOKENS of the producer"
            )
        known = await self._store.meet_journal(welcome.journal, _hash(welcome))
        if not compare_digest(known, _hash(welcome)):
            raise ProducerError(
                f"{url} names the journal {welcome.journal}, but does not show its key: another producer has that"
                f" journal. If this one is right, delete the journal's row from {self._group}.journals"
            )
        self._hashes[welcome.journal] = known

    def take(self, feed: Feed, journal: str) -> None:
        """Let `feed` read the journal until it releases it; raises ProducerError while another feed reads it.

        What another feed has read of it before is read again: a journal may have moved to another address.
        """
        other = self._connected.get(journal)
        if other is not None and other is not feed:
            raise ProducerError(
                f"{feed.shown_url} and {other.shown_url} serve the same journal, {journal}: name one address of each"
                " producer in WS_URL, and give each producer a journal of its own"
            )
        before = self._last.get(journal)
        if before not in (None, feed) and before.track is not None and before.track.journal == journal:
            before.supersede()
        self._connected[journal] = self._last[journal] = feed

    def release(self, feed: Feed) -> None:
        """Record that the connection of `feed` has ended."""
        self._connected = {journal: other for journal, other in self._connected.items() if other is not feed}


def _hash(welcome: Welcome) -> str:
    return sha256((welcome.key or "").encode()).hexdigest()
