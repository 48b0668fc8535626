"""What is to be run for an event: its handlers in order, and how many such events may share a transaction."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

from oncecast.app.arguments import Arguments
from oncecast.app.selectors import Selector
from oncecast.core.errors import ConfigError
from oncecast.core.event import Arrival

SHARED_MAX_EVENTS = 100
"""So many events of handlers that share a transaction go into one; more would wait longer for each other's locks."""

KEY_MAX_BYTES = 200
"""Of a key as it stands; a longer one is known by its hash, for it is kept when its event has gone."""

ATTRIBUTE = re.compile(r"[a-z0-9]{1,64}")
"""The names of attributes that a producer takes, extensions included."""


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A function of the user's. `name` is its own within the application: emitted ids are derived from it.

    `batch_max` is how many events a call takes, None for a handler of single events. One that is `shared` only
    writes SQL, so that a transaction may have several events. `ordered_by` names an attribute, or a path in the data.
    """

    name: str
    function: Callable[..., Any]
    arguments: Arguments
    selectors: Sequence[Selector]
    is_async: bool
    batch_max: int | None = None
    shared: bool = False
    ordered_by: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The handlers of one kind of event. Events of one plan may be attempted `together_max` at a time."""

    handlers: tuple[Handler, ...]
    together_max: int = field(init=False)
    in_batches: bool = field(init=False)
    in_threads: bool = field(init=False)
    """Whether any handler is a plain `def`."""
    key_of: Callable[[Arrival], str | None] | None = field(init=False)
    """The key of an ordered event; None for one without, which is in nobody's way."""

    def __post_init__(self) -> None:
        sizes = [h.batch_max or (SHARED_MAX_EVENTS if h.shared else 1) for h in self.handlers]
        ordered_by = next((h.ordered_by for h in self.handlers if h.ordered_by), None)
        object.__setattr__(self, "together_max", 1 if ordered_by else min(sizes, default=1))
        object.__setattr__(self, "in_batches", any(h.batch_max for h in self.handlers))
        object.__setattr__(self, "in_threads", not all(h.is_async for h in self.handlers))
        object.__setattr__(self, "key_of", key_of(ordered_by) if ordered_by else None)

    def parts(self, work: list[Arrival]) -> list[list[Arrival]]:
        """What to attempt one after the other when `work` has failed as a whole.

        Halves lead to the bad one in few calls; where an event is a call anyway, each alone is no more.
        """
        if self.handlers and not self.in_batches:
            return [[arrival] for arrival in work]
        middle = len(work) // 2
        return [work[:middle], work[middle:]]


NOTHING = Plan(())
"""The plan of events that are only stored."""


def check_place(ordered_by: object) -> None:
    """Raise ConfigError if no event has anything at this place; any attribute may be a producer's extension."""
    if isinstance(ordered_by, str):
        place = ordered_by.split(".")
        if ATTRIBUTE.fullmatch(place[0]) and all(place) and (len(place) == 1 or place[0] == "data"):
            return
    raise ConfigError(
        f"ordered_by={ordered_by!r}: an attribute such as 'subject' (a-z and 0-9), or a path such as 'data.account'"
    )


def key_of(ordered_by: str) -> Callable[[Arrival], str | None]:
    """What reads the key of an event by `subject`, `source`, another attribute, or a path such as `data.account`.

    Such as `data.account=7`: the same number at another place is another key, since it is of another thing. The value
    is JSON, so that 1 and "1" are two keys. An event that lacks it, or whose data is of another shape, has none.
    """
    place = ordered_by.split(".")
    shape: Any = msgspec.Raw
    for depth, name in reversed(list(enumerate(place))):
        shape = msgspec.defstruct(f"Key{depth}", [("key", shape, msgspec.UNSET)], rename={"key": name}, gc=False)
    decode = msgspec.json.Decoder(shape).decode

    def key(arrival: Arrival) -> str | None:
        try:
            found: Any = decode(arrival.raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        for _ in place:
            if found is msgspec.UNSET:
                return None
            found = found.key
        if found is msgspec.UNSET or bytes(found) == b"null":
            return None
        try:
            value = msgspec.json.encode(msgspec.json.decode(found))
        except msgspec.DecodeError:
            return None  # a number beyond all bounds, which no producer of ours lets pass
        if len(value) > KEY_MAX_BYTES:
            value = b"#" + blake2b(value, digest_size=32).hexdigest().encode()
        return f"{ordered_by}={value.decode()}"

    return key
