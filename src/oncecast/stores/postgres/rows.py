"""Turn arrivals into query parameters: the events of a batch are one JSON text, undecoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg.adapt import Dumper

from oncecast.core.dead_letter_ports import DeadLetter
from oncecast.core.dead_letters import Identity
from oncecast.core.errors import Unstorable
from oncecast.core.event import KNOWN_MEMBERS, Arrival
from oncecast.event import Known
from oncecast.stores.postgres.database import rfc3339

_JSON_OID = 114


class RawJson(bytes):
    """JSON text that is sent to PostgreSQL unchanged."""


class _JsonDumper(Dumper):
    oid = _JSON_OID

    def dump(self, obj: RawJson) -> bytes:
        return obj  # not copied: it may be large


psycopg.adapters.register_dumper(RawJson, _JsonDumper)


_decode_known = msgspec.json.Decoder(list[Known]).decode
_decode_members = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


def rows_of(arrivals: Sequence[Arrival], listener: str, revision: int = -1) -> dict[str, Any]:
    """Return the parameters of `insert`."""
    events = json_array(arrivals)
    return {
        "events": events,
        "offsets": [a.offset for a in arrivals],
        "attempts": [a.attempts for a in arrivals],
        "at_us": [a.at_us for a in arrivals],
        "extensions": _extensions(events),
        "journal": arrivals[0].journal,
        "epoch": arrivals[0].epoch,
        "listener": listener,
        "revision": revision,
    }


def row_values(arrival: Arrival, listener: str, revision: int) -> dict[bytes, bytes | int | None]:
    """Return the parameters of `begin_attempt`."""
    extensions = next(iter(_extensions(json_array([arrival]))), None)
    return {
        b"event": bytes(arrival.raw),
        b"extensions": None if extensions is None else extensions.encode(),
        b"journal": arrival.journal.encode(),
        b"epoch": arrival.epoch.encode(),
        b"offset": arrival.offset,
        b"listener": listener.encode(),
        b"attempts": arrival.attempts,
        b"at_us": arrival.at_us,
        b"revision": revision,
    }


def json_array(arrivals: Sequence[Arrival]) -> RawJson:
    """Return the events as one JSON array."""
    return RawJson(b"[%b]" % b",".join([a.raw for a in arrivals]))


def _extensions(events: bytes) -> list[str | None]:
    """Return each event's extension attributes as a JSON object, or None if no event of the batch has any.

    Raises Unstorable if an event is not valid JSON. Oncecast's producer accepts no such event.
    """
    try:
        try:
            _decode_known(events)
        except msgspec.ValidationError:
            return [_extensions_of(members) for members in _decode_members(events)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unstorable(f"the event's JSON cannot be read: {error}") from error
    return []


def _extensions_of(members: dict[str, msgspec.Raw]) -> str | None:
    extensions = {
        name: value for name, value in members.items() if name not in KNOWN_MEMBERS and bytes(value) != b"null"
    }
    return msgspec.json.encode(extensions).decode() if extensions else None


def storable(text: str) -> str:
    """Return the text without characters that PostgreSQL refuses, of limited length."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:20_000]


def dead_letter_of(row: Sequence[Any]) -> DeadLetter:
    """Return the dead letter in a row of `unlogged` or `claim_unforwarded`."""
    source, id_, error, attempts, raw, died_at, listener = row
    return DeadLetter(
        source=source,
        id=id_,
        error=error,
        attempts=attempts,
        raw=raw,
        died_at=rfc3339(died_at),
        listener=listener,
    )


def identities_of(dead_letters: Sequence[DeadLetter] | Sequence[Identity]) -> dict[str, list[str]]:
    """Return the parameters of a query on these identities."""
    return {
        "sources": [dead_letter.source for dead_letter in dead_letters],
        "ids": [dead_letter.id for dead_letter in dead_letters],
    }
