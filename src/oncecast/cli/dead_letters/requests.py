"""Replay requests to several listeners, one at a time to each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from oncecast.cli.entries import DEAD_LETTER, REPLAY_DEADLINE_S
from oncecast.core.errors import OncecastError

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient

DeadLetterNames = Sequence[dict[str, Any]]


class ReplayAnswer(NamedTuple):
    """The answer to a request for `events`, or its error, after `took_s`."""

    events: DeadLetterNames
    body: dict[str, Any] | OncecastError
    took_s: float


class ReplayRequests:
    """Sends requests from threads, which do not keep the process alive after Ctrl-C.

    The first request is sent alone: its answer says whether the application has an order, which one listener keeps.
    """

    def __init__(self, asked: AdminClient) -> None:
        self._addresses = asked.addresses
        self._asked = asked
        self._threads: list[Thread] = []
        self._threads_max = 1
        self._free = 0
        self._questions: SimpleQueue[DeadLetterNames] = SimpleQueue()
        self._answers: SimpleQueue[ReplayAnswer] = SimpleQueue()
        self.in_flight = 0
        """The number of events whose request is not answered."""

    @property
    def has_room(self) -> bool:
        """Whether a listener is free."""
        return self._free > 0 or len(self._threads) < self._threads_max

    def send(self, events: DeadLetterNames) -> None:
        """Request the replay of `events` from a free listener."""
        self.in_flight += len(events)
        if self._free:
            self._free -= 1
        else:
            address = self._addresses[len(self._threads)]
            self._threads.append(Thread(target=self._ask_next, args=(address,), daemon=True))
            self._threads[-1].start()
        self._questions.put(events)

    def next_answer(self) -> ReplayAnswer:
        """Wait for the next answer."""
        answer = self._answers.get()
        self.in_flight -= len(answer.events)
        self._free += 1
        if isinstance(answer.body, dict) and not answer.body.get("ordered", True):
            self._threads_max = len(self._addresses)
        return answer

    def _ask_next(self, address: str) -> None:
        with self._asked.at(address) as listener:
            while True:
                events, began_s = self._questions.get(), time.monotonic()
                body: dict[str, Any] | OncecastError
                try:
                    body = DEAD_LETTER.post(listener, "replay", {"events": events}, deadline_s=REPLAY_DEADLINE_S)
                except OncecastError as error:
                    body = error
                self._answers.put(ReplayAnswer(events, body, time.monotonic() - began_s))
