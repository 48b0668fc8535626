"""A dead letter as JSON for people and programs: the line of the file, and a broker's message."""

from __future__ import annotations

import shlex

import msgspec

from oncecast.core.dead_letter_ports import DeadLetter, LetterMessage

ERROR_SHORT_LETTERS = 300


def line_of(letter: DeadLetter) -> bytes:
    """One JSON object on one line."""
    note = f"sent again it is a duplicate; to process it again: {_command('replay', letter)}"
    return _json(letter, msgspec.Raw(letter.raw.replace(b"\n", b" ").replace(b"\r", b" ")), note)


def message_of(letter: DeadLetter, max_bytes: int) -> LetterMessage:
    """The same as a message; where that would be too long, without the event's data, and saying how to get it."""
    body = line_of(letter)
    if len(body) > max_bytes:
        note = f"its event is too large to be sent; to see it whole: {_command('show', letter)}"
        identity = {"source": letter.source, "id": letter.id}
        body = _json(letter, _without_data(letter.raw) or identity, note)
        if len(body) > max_bytes:
            body = _json(letter, identity, note, ERROR_SHORT_LETTERS)
    return LetterMessage(source=letter.source, id=letter.id, body=body)


def _json(letter: DeadLetter, event: object, note: str, error_letters: int | None = None) -> bytes:
    return msgspec.json.encode(
        {
            "timestamp": letter.died_at,
            "instance": letter.listener,
            "error": letter.error[:error_letters],
            "attempts": letter.attempts,
            "note": note,
            "event": event,
        }
    )


def _without_data(raw: bytes) -> dict[str, object]:
    """Nothing where it cannot be read: that may be what it died of."""
    try:
        members = msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return {name: value for name, value in members.items() if name not in ("data", "data_base64")}


def _command(verb: str, letter: DeadLetter) -> str:
    """What does it, to be pasted into a shell."""
    return shlex.join(("oncecast", "dead-letters", verb, "--source", letter.source, "--", letter.id))
