"""UnforwardedDeadLetters on a MemoryPostgres."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from oncecast.core.dead_letter_ports import OTHERS_AFTER_S, DeadLetter
from oncecast.testing.memory.call import ServerCall, at_once, at_server
from oncecast.testing.memory.client import Client
from oncecast.testing.memory.postgres import MemoryPostgres, StoredDeadLetter


class MemoryUnforwarded(Client):
    """UnforwardedDeadLetters in memory."""

    def __init__(
        self,
        server: MemoryPostgres,
        *,
        instance: str,
        token: str,
        call: ServerCall = at_once,
        others_after_s: float = OTHERS_AFTER_S,
    ) -> None:
        super().__init__(server, instance=instance, token=token, call=call)
        self._others_after_s = others_after_s

    @at_server
    def begin(self) -> None:
        """Mark future dead letters as unsent."""
        if self._tables.sending_since_s is None:
            self._tables.sending_since_s = self._now_s()

    @at_server
    def claim(self, limit: int) -> list[DeadLetter]:
        """Claim up to `limit` unsent dead letters."""
        now_s = self._now_s()
        due = [
            (identity, dead_letter)
            for identity, dead_letter in self._unforwarded()
            if (dead_letter.listener == self._instance or now_s - dead_letter.died_at_s > self._others_after_s)
            and (
                dead_letter.send_claimed_at_s is None or now_s - dead_letter.send_claimed_at_s > self._others_after_s
            )
        ][:limit]
        for _, dead_letter in due:
            dead_letter.send_claimed_at_s = now_s
        return [self._dead_letter(identity) for identity, _ in due]

    @at_server
    def mark_forwarded(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Mark dead letters as sent."""
        for dead_letter in self._kept(dead_letters):
            dead_letter.sent = True

    @at_server
    def release(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Release claimed dead letters."""
        for dead_letter in self._kept(dead_letters):
            dead_letter.send_claimed_at_s = None

    async def count(self) -> int:
        """Return the number of unsent dead letters."""
        return await self._do(lambda: len(list(self._unforwarded())))

    def _unforwarded(self) -> Iterator[tuple[str, StoredDeadLetter]]:
        since_s = self._tables.sending_since_s
        for identity, dead_letter in self._tables.dead_letters.items():
            if (
                since_s is not None
                and dead_letter.died_at_s >= since_s
                and not dead_letter.sent
                and not dead_letter.discarded
            ):
                yield identity, dead_letter

    def _kept(self, dead_letters: Sequence[DeadLetter]) -> Iterator[StoredDeadLetter]:
        for dead_letter in dead_letters:
            if (kept := self._tables.dead_letters.get(f"{dead_letter.source}\0{dead_letter.id}")) is not None:
                yield kept
