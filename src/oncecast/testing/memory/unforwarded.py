"""The UnsentLetters of `core.letter_ports` on a MemoryPostgres."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from oncecast.core.dead_letter_ports import OTHERS_AFTER_S, DeadLetter
from oncecast.testing.memory.call import Call, at_once
from oncecast.testing.memory.client import Client
from oncecast.testing.memory.postgres import Letter, MemoryPostgres


class MemoryUnsent(Client):
    """See UnsentLetters."""

    def __init__(
        self,
        server: MemoryPostgres,
        *,
        instance: str,
        token: str,
        call: Call = at_once,
        others_after_s: float = OTHERS_AFTER_S,
    ) -> None:
        super().__init__(server, instance=instance, token=token, call=call)
        self._others_after_s = others_after_s

    async def begin(self) -> None:
        """See UnsentLetters."""

        def begin() -> None:
            if self._tables.sending_since_s is None:
                self._tables.sending_since_s = self._now_s()

        await self._do(begin)

    async def claim(self, limit: int) -> list[DeadLetter]:
        """See UnsentLetters."""

        def claim() -> list[DeadLetter]:
            now_s = self._now_s()
            due = [
                (identity, letter)
                for identity, letter in self._unsent()
                if (letter.listener == self._instance or now_s - letter.died_at_s > self._others_after_s)
                and (letter.send_claimed_at_s is None or now_s - letter.send_claimed_at_s > self._others_after_s)
            ][:limit]
            for _, letter in due:
                letter.send_claimed_at_s = now_s
            return [self._letter(identity) for identity, _ in due]

        claimed: list[DeadLetter] = await self._do(claim)
        return claimed

    async def mark_sent(self, letters: Sequence[DeadLetter]) -> None:
        """See UnsentLetters."""

        def mark() -> None:
            for letter in self._kept(letters):
                letter.sent = True

        await self._do(mark)

    async def release(self, letters: Sequence[DeadLetter]) -> None:
        """See UnsentLetters."""

        def release() -> None:
            for letter in self._kept(letters):
                letter.send_claimed_at_s = None

        await self._do(release)

    async def count(self) -> int:
        """See UnsentLetters."""
        count: int = await self._do(lambda: len(list(self._unsent())))
        return count

    def _unsent(self) -> Iterator[tuple[str, Letter]]:
        since_s = self._tables.sending_since_s
        for identity, letter in self._tables.letters.items():
            if since_s is not None and letter.died_at_s >= since_s and not letter.sent and not letter.discarded:
                yield identity, letter

    def _kept(self, letters: Sequence[DeadLetter]) -> Iterator[Letter]:
        for letter in letters:
            if (kept := self._tables.letters.get(f"{letter.source}\0{letter.id}")) is not None:
                yield kept
