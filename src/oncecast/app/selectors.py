"""Which events a handler is for: by type and by source, each exact or a pattern with `*` at its end."""

from __future__ import annotations

from typing import NamedTuple

from oncecast.core.errors import ConfigError


class Selector(NamedTuple):
    """`order.created`, `order.*` (whatever begins so) or `*`; of any source unless one is given."""

    type: str
    source: str | None = None

    def selects(self, type: str, source: str) -> bool:
        """Whether an event of this type and source is meant."""
        return _fits(self.type, type) and (self.source is None or _fits(self.source, source))

    def meets(self, other: Selector) -> bool:
        """Whether one event could be meant by both."""
        return _meet(self.type, other.type) and (
            self.source is None or other.source is None or _meet(self.source, other.source)
        )

    def __str__(self) -> str:
        return self.type if self.source is None else f"{self.type} from {self.source}"


def selectors_of(types: tuple[object, ...], source: object) -> list[Selector]:
    """A selector for each of `types`; raises ConfigError for what is no pattern."""
    if not types:
        such_as = "'order.created'" if source is None else f"'*', source={source!r}"
        raise ConfigError(f"a handler needs the event types that it is for, such as @app.on({such_as})")
    sources = [] if source is None else [(source, "source")]
    for pattern, what in [*((type, "event type") for type in types), *sources]:
        if not isinstance(pattern, str) or not pattern:
            raise ConfigError(f"{pattern!r} is no {what}: event types and sources are texts, such as 'order.created'")
        if "*" in pattern[:-1]:
            raise ConfigError(f"{what} {pattern!r}: a * may only stand at the end, as in 'order.*'")
    return [Selector(str(type), None if source is None else str(source)) for type in types]


def _fits(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _meet(one: str, other: str) -> bool:
    if one.endswith("*") and other.endswith("*"):
        return one.startswith(other[:-1]) or other.startswith(one[:-1])
    return _fits(one, other) or _fits(other, one)
