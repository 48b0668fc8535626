"""A dead letter as JSON: one line of the log file, and the message to a broker."""

from __future__ import annotations

import shlex

import msgspec

from oncecast.core.dead_letter_ports import DeadLetter, DeadLetterMessage

ERROR_SHORT_CHARS = 300


def line_of(dead_letter: DeadLetter) -> bytes:
    """Return the dead letter as one JSON object on one line."""
    note = f"sent again it is a duplicate; to process it again: {_command('replay', dead_letter)}"
    return _json(dead_letter, msgspec.Raw(dead_letter.raw.replace(b"\n", b" ").replace(b"\r", b" ")), note)


def message_of(dead_letter: DeadLetter, max_bytes: int) -> DeadLetterMessage:
    """Return the dead letter as a message; if it exceeds `max_bytes`, without the event's data."""
    body = line_of(dead_letter)
    if len(body) > max_bytes:
        note = f"its event is too large to be sent; to see it whole: {_command('show', dead_letter)}"
        identity = {"source": dead_letter.source, "id": dead_letter.id}
        body = _json(dead_letter, _without_data(dead_letter.raw) or identity, note)
        if len(body) > max_bytes:
            body = _json(dead_letter, identity, note, ERROR_SHORT_CHARS)
    return DeadLetterMessage(source=dead_letter.source, id=dead_letter.id, body=body)


def _json(dead_letter: DeadLetter, event: object, note: str, error_max_chars: int | None = None) -> bytes:
    return msgspec.json.encode(
        {
            "timestamp": dead_letter.died_at,
            "instance": dead_letter.listener,
            "error": dead_letter.error[:error_max_chars],
            "attempts": dead_letter.attempts,
            "note": note,
            "event": event,
        }
    )


def _without_data(raw: bytes) -> dict[str, object]:
    """Return the event's attributes without its data; {} if it cannot be parsed, which may be why it failed."""
    try:
        members = msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return {name: value for name, value in members.items() if name not in ("data", "data_base64")}


def _command(verb: str, dead_letter: DeadLetter) -> str:
    """Return the command, quoted for a shell."""
    return shlex.join(("oncecast", "dead-letters", verb, "--source", dead_letter.source, "--", dead_letter.id))
