"""Select events for a handler by type and source, each exact or a pattern that ends in `*`."""

from __future__ import annotations

from typing import NamedTuple

from oncecast.core.errors import ConfigError


class Selector(NamedTuple):
    """A type such as `order.created`, a prefix such as `order.*`, or `*`; of any source unless one is given."""

    type: str
    source: str | None = None

    def selects(self, type: str, source: str) -> bool:
        """Return whether it selects events of this type and source."""
        return _fits(self.type, type) and (self.source is None or _fits(self.source, source))

    def meets(self, other: Selector) -> bool:
        """Return whether both could select the same event."""
        return _meet(self.type, other.type) and (
            self.source is None or other.source is None or _meet(self.source, other.source)
        )

    def __str__(self) -> str:
        return self.type if self.source is None else f"{self.type} from {self.source}"


def selectors_of(types: tuple[object, ...], source: object) -> list[Selector]:
    """Return a selector for each of `types`. Raises ConfigError for an invalid pattern."""
    if not types:
        such_as = "'order.created'" if source is None else f"'*', source={source!r}"
        raise ConfigError(f"a handler needs event types, such as @app.on({such_as})")
    sources = [] if source is None else [(source, "source")]
    for pattern, what in [*((type, "event type") for type in types), *sources]:
        if not isinstance(pattern, str) or not pattern:
            raise ConfigError(f"invalid {what} {pattern!r}: expected a text, such as 'order.created'")
        if "*" in pattern[:-1]:
            raise ConfigError(f"invalid {what} {pattern!r}: a * is only allowed at the end, as in 'order.*'")
    return [Selector(str(type), None if source is None else str(source)) for type in types]


def _fits(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _meet(one: str, other: str) -> bool:
    if one.endswith("*") and other.endswith("*"):
        return one.startswith(other[:-1]) or other.startswith(one[:-1])
    return _fits(one, other) or _fits(other, one)
