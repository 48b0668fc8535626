"""Replay requests to several listeners, one at a time to each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from oncecast.cli.entries import DEAD_LETTER, REPLAY_DEADLINE_S

if TYPE_CHECKING:
    from oncecast.client.admin import AdminClient

DeadLetterNames = Sequence[dict[str, Any]]


class ReplayAnswer(NamedTuple):
    """The answer to a request for `events`, or its error, after `took_s`."""

    events: DeadLetterNames
    body: dict[str, Any] | Exception
    took_s: float
    was_refused: bool = False
    """Whether the listener cannot replay at all, so that nothing has happened to the events."""


class ReplayRequests:
    """Sends requests from threads, which do not keep the process alive after Ctrl-C.

    The first request is sent alone: its answer says whether the application has an order, which one listener keeps. A
    listener that cannot be reached, or does not work, gets no further requests.
    """

    def __init__(self, asked: AdminClient) -> None:
        self._left = [asked.at(address) for address in asked.addresses]
        """Listeners that have not been asked."""
        self._threads = 0
        self._threads_max = 1
        self._free = 0
        self._questions: SimpleQueue[DeadLetterNames] = SimpleQueue()
        self._answers: SimpleQueue[ReplayAnswer] = SimpleQueue()
        self.in_flight = 0
        """The number of events whose request is not answered."""

    @property
    def has_room(self) -> bool:
        """Whether a listener is free."""
        return self._free > 0 or (self._threads < self._threads_max and bool(self._left))

    @property
    def has_listeners(self) -> bool:
        """Whether any listener is left."""
        return self._threads > 0 or bool(self._left)

    def send(self, events: DeadLetterNames) -> None:
        """Request the replay of `events` from a free listener."""
        self.in_flight += len(events)
        if self._free:
            self._free -= 1
        else:
            self._threads += 1
            Thread(target=self._ask_next, args=(self._left.pop(0),), daemon=True).start()
        self._questions.put(events)

    def next_answer(self) -> ReplayAnswer:
        """Wait for the next answer."""
        answer = self._answers.get()
        self.in_flight -= len(answer.events)
        if answer.was_refused:
            self._threads -= 1
            return answer
        self._free += 1
        if isinstance(answer.body, dict) and not answer.body.get("ordered", True):
            self._threads_max = self._threads + len(self._left)
        return answer

    def _ask_next(self, listener: AdminClient) -> None:
        """Send one request after the other, until the listener cannot replay."""
        was_refused = False
        with listener:
            while not was_refused:
                events, began_s = self._questions.get(), time.monotonic()
                body: dict[str, Any] | Exception
                try:
                    body = DEAD_LETTER.post(listener, "replay", {"events": events}, deadline_s=REPLAY_DEADLINE_S)
                except Exception as error:  # the main thread raises or prints it
                    body, was_refused = error, _was_refused(error)
                self._answers.put(ReplayAnswer(events, body, time.monotonic() - began_s, was_refused))


def _was_refused(error: Exception) -> bool:
    from oncecast.client.admin import AdminRefused, NotReached

    is_away = isinstance(error, AdminRefused) and error.status == HTTPStatus.SERVICE_UNAVAILABLE
    return is_away or isinstance(error, NotReached)
