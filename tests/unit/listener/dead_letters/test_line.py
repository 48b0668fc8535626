"""A dead letter as a message: the line of the file, cut where it is too long, and then saying how to see the rest."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from oncecast.core.dead_letter_ports import DeadLetter
from oncecast.event import Event
from oncecast.listener.dead_letters.line import line_of, message_of


def dead_letter(data: object, error: str = "KeyError: 'tae'", **attributes: object) -> DeadLetter:
    event = Event.new("order", data, id="o 1", source="/shop", extensions=attributes)
    return DeadLetter(
        source="/shop",
        id="o 1",
        error=error,
        attempts=3,
        raw=event.to_json(),
        died_at="2026-01-02T03:04:05Z",
        listener="listener-a",
    )


def test_a_message_is_the_line_of_the_file() -> None:
    given = dead_letter({"sku": "tae"})
    message = message_of(given, 10_000)
    assert message.body == line_of(given)
    body = msgspec.json.decode(message.body)
    assert (body["instance"], body["error"], body["attempts"]) == ("listener-a", "KeyError: 'tae'", 3)
    assert (body["timestamp"], body["event"]["data"]) == ("2026-01-02T03:04:05Z", {"sku": "tae"})
    assert "oncecast dead-letters replay --source /shop -- 'o 1'" in body["note"]


def test_a_message_that_is_too_long_omits_the_data_and_names_the_command_that_shows_it() -> None:
    body = msgspec.json.decode(message_of(dead_letter("x" * 10_000, trace="kept"), 5_000).body)
    assert body["event"]["type"] == "order"
    assert body["event"]["trace"] == "kept"
    assert "data" not in body["event"]
    assert "too large" in body["note"]
    assert "oncecast dead-letters show --source /shop -- 'o 1'" in body["note"]


def test_a_message_with_a_long_error_and_long_attributes_still_has_the_identity() -> None:
    message = message_of(dead_letter(None, error="x" * 20_000, trace="y" * 20_000), 2_000)
    assert len(message.body) < 2_000
    body = msgspec.json.decode(message.body)
    assert body["event"] == {"source": "/shop", "id": "o 1"}
    assert "dead-letters show" in body["note"]


@pytest.mark.parametrize("raw", [b'{"id":"o 1","data":"\xff', b"[]", b"[" * 100_000])
def test_a_long_message_about_unreadable_json_still_has_the_identity(raw: bytes) -> None:
    given = dataclasses.replace(dead_letter(1), raw=raw + b" " * 10_000)
    body = msgspec.json.decode(message_of(given, 2_000).body)
    assert body["event"] == {"source": "/shop", "id": "o 1"}


def test_a_messages_digest_is_the_same_whenever_it_is_made_and_another_for_another_identity() -> None:
    first, again = message_of(dead_letter(1), 10_000), message_of(dead_letter(2), 10_000)
    assert first.digest == again.digest
    assert len(first.digest) == 64
