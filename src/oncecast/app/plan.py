"""Plans: the handlers of an event in order, and how many such events may share a transaction."""

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
"""The most events in a shared transaction; more would wait too long for each other's locks."""

KEY_MAX_BYTES = 200
"""A longer key is replaced by its hash, because keys are kept longer than their events."""

ATTRIBUTE = re.compile(r"[a-z0-9]{1,64}")
"""The names of attributes that a producer accepts, extensions included."""


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A handler of the application. `name` is unique in it; ids of emitted events are derived from it.

    `batch_max` is the most events per call, None for a handler of single events. A `shared` handler only writes SQL,
    so that several events may share a transaction. `ordered_by` names an attribute, or a path in the data.
    """

    name: str
    function: Callable[..., Any]
    arguments: Arguments
    selectors: Sequence[Selector]
    is_async: bool
    batch_max: int | None = None
    shared: bool = False
    ordered_by: str | None = None

    @property
    def together_max(self) -> int:
        """The maximum number of events that may share a transaction."""
        if self.ordered_by:
            return 1
        return self.batch_max or (SHARED_MAX_EVENTS if self.shared else 1)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The handlers of one kind of event. Up to `together_max` events of one plan may share an attempt."""

    handlers: tuple[Handler, ...]
    together_max: int = field(init=False)
    in_batches: bool = field(init=False)
    in_threads: bool = field(init=False)
    """Whether any handler is a plain `def`."""
    key_of: Callable[[Arrival], str | None] | None = field(init=False)
    """Returns the key of an ordered event; None for an event without one, which never waits."""

    def __post_init__(self) -> None:
        ordered_by = next((h.ordered_by for h in self.handlers if h.ordered_by), None)
        object.__setattr__(self, "together_max", min((h.together_max for h in self.handlers), default=1))
        object.__setattr__(self, "in_batches", any(h.batch_max for h in self.handlers))
        object.__setattr__(self, "in_threads", not all(h.is_async for h in self.handlers))
        object.__setattr__(self, "key_of", key_of(ordered_by) if ordered_by else None)

    def parts(self, work: list[Arrival]) -> list[list[Arrival]]:
        """Return the parts to attempt one after the other after `work` has failed as a whole.

        Batches are halved, which finds a failing event in few calls. Without batches each event is a part.
        """
        if self.handlers and not self.in_batches:
            return [[arrival] for arrival in work]
        middle = len(work) // 2
        return [work[:middle], work[middle:]]


STORE_ONLY = Plan(())
"""The plan of events without handlers, which are only stored."""


def check_place(ordered_by: object) -> None:
    """Raise ConfigError if `ordered_by` is neither an attribute (extensions included) nor a path in the data."""
    if isinstance(ordered_by, str):
        place = ordered_by.split(".")
        if ATTRIBUTE.fullmatch(place[0]) and all(place) and (len(place) == 1 or place[0] == "data"):
            return
    raise ConfigError(
        f"ordered_by={ordered_by!r}: expected an attribute such as 'subject' (a-z and 0-9), or a path such as"
        " 'data.account'"
    )


def key_of(ordered_by: str) -> Callable[[Arrival], str | None]:
    """Return a function that reads an event's key: an attribute, or a path such as `data.account`.

    A key such as `data.account=7` includes the path, so that equal values of different paths differ. The value is
    JSON, so that 1 and "1" differ. An event without the value has no key.
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
            return None  # a number out of range, which Oncecast's producer refuses
        if len(value) > KEY_MAX_BYTES:
            value = b"#" + blake2b(value, digest_size=32).hexdigest().encode()
        return f"{ordered_by}={value.decode()}"

    return key
