"""Replay requests go to several listeners, one at a time to each, unless the application has an order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from oncecast.cli.dead_letters.requests import ReplayRequests
from oncecast.client.admin import AdminClient
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

    def at(self, address: str) -> Listeners:
        one = Listeners(ordered=self._ordered, addresses=[address])
        one.answering, one.asked, one.arrived, one.error = self.answering, self.asked, self.arrived, self.error
        return one

    def ask(self, method: str, path: str, **options: Any) -> Any:
        self.asked += self.addresses
        self.arrived.release()
        assert self.answering.wait(5.0)
        if self.error is not None:
            raise self.error
        return {"results": [], "ordered": self._ordered}


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
    listeners = Listeners(ordered=False)
    listeners.error = error = Unavailable("no answer")
    listeners.answering.set()
    requests = ReplayRequests(listeners)
    requests.send(events("1", "2"))
    answer = requests.next_answer()
    assert (answer.body, len(answer.events), requests.in_flight) == (error, 2, 0)
