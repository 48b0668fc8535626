"""Replay requests go to several listeners, one at a time to each, unless the application has an order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from oncecast.cli.dead_letters.requests import ReplayRequests
from oncecast.client.admin import AdminClient, AdminRefused, NotReached
from oncecast.core.errors import Unavailable

ADDRESSES = ("http://a", "http://b")


class Listeners(AdminClient):
    """A client whose listeners answer once `answering` is set."""

    def __init__(self, *, ordered: bool, addresses: Sequence[str] = ADDRESSES) -> None:
        super().__init__(addresses)
        self._ordered = ordered
        self.answering = threading.Event()
        self.asked: list[str] = []
        self.arrived = threading.Semaphore(0)
        self.error: Exception | None = None
        self.failing = set(ADDRESSES)

    def at(self, address: str) -> Listeners:
        one = Listeners(ordered=self._ordered, addresses=[address])
        one.answering, one.asked, one.arrived = self.answering, self.asked, self.arrived
        one.error, one.failing = self.error, self.failing
        return one

    def ask(self, method: str, path: str, **options: Any) -> Any:
        self.asked += self.addresses
        self.arrived.release()
        assert self.answering.wait(5.0)
        if self.error is not None and self.addresses[0] in self.failing:
            raise self.error
        return {"results": [], "ordered": self._ordered}


def failing(error: Exception, *addresses: str) -> Listeners:
    """Listeners of which these answer with `error`."""
    listeners = Listeners(ordered=False)
    listeners.error, listeners.failing = error, set(addresses)
    listeners.answering.set()
    return listeners


def events(*ids: str) -> list[dict[str, Any]]:
    return [{"id": each, "source": "/x"} for each in ids]


def test_the_first_request_is_alone_and_then_each_listener_gets_one() -> None:
    listeners = Listeners(ordered=False)
    requests = ReplayRequests(listeners)
    requests.send(events("1"))
    had_room = requests.has_room
    listeners.answering.set()
    requests.next_answer()
    listeners.answering.clear()
    requests.send(events("2"))
    requests.send(events("3", "4"))
    assert (had_room, requests.has_room, requests.in_flight) == (False, False, 3)
    assert all(listeners.arrived.acquire(timeout=5.0) for _ in range(3))
    listeners.answering.set()
    answers = [requests.next_answer() for _ in range(2)]
    assert sorted(each["id"] for answer in answers for each in answer.events) == ["2", "3", "4"]
    assert set(listeners.asked) == set(ADDRESSES)


def test_an_application_with_an_order_has_one_request_at_a_time() -> None:
    listeners = Listeners(ordered=True)
    listeners.answering.set()
    requests = ReplayRequests(listeners)
    for number in range(3):
        requests.send(events(str(number)))
        assert not requests.has_room
        requests.next_answer()
    assert set(listeners.asked) == {"http://a"}


def test_an_error_is_an_answer() -> None:
    error = Unavailable("no answer")
    requests = ReplayRequests(failing(error, *ADDRESSES))
    requests.send(events("1", "2"))
    answer = requests.next_answer()
    assert (answer.body, len(answer.events), requests.in_flight) == (error, 2, 0)
    assert (answer.was_refused, requests.has_room) == (False, True)


@pytest.mark.parametrize("error", [NotReached("refused"), AdminRefused("it is stopping", 503)])
def test_a_listener_that_cannot_replay_gets_no_further_requests(error: Exception) -> None:
    listeners = failing(error, "http://a")
    requests = ReplayRequests(listeners)
    requests.send(events("1"))
    assert requests.next_answer().was_refused
    assert (requests.has_listeners, requests.has_room) == (True, True)
    for _ in range(2):
        requests.send(events("1"))
        assert isinstance(requests.next_answer().body, dict)
    assert listeners.asked == ["http://a", "http://b", "http://b"]


def test_without_any_listener_left_there_is_no_room() -> None:
    requests = ReplayRequests(failing(NotReached("refused"), *ADDRESSES))
    for _ in ADDRESSES:
        assert requests.has_room
        requests.send(events("1"))
        assert requests.next_answer().was_refused
    assert (requests.has_listeners, requests.has_room) == (False, False)
