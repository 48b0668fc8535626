"""The application under test: its events, its setup and its checks.

A user's application defines these as attributes of its module, without importing anything from Oncecast.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from oncecast.app.application import App
from oncecast.chaos import application
from oncecast.chaos.judge import OWN_RULES, Rules
from oncecast.core.errors import ConfigError
from oncecast.event import Event, new_id

GENERATOR = "chaos_events"
SETUP = "chaos_setup"
CHECKS = "chaos_checks"
MAY_DIE = "chaos_may_die"
KILLING_EVERY_S = 40.0
"""Each of these events kills four processes, and each death takes about five seconds to detect."""
OWN_EVENTS_PER_S = 2_000.0
USERS_EVENTS_PER_S = 200.0
"""Each event is a transaction and may emit more; the rate must stay below what listeners can do under faults."""

Draw = Callable[[random.Random], Iterator[Event]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An application, and how a run tests it."""

    app: App
    target: str
    """The argument of listeners: `module:name`, found in `app_dir`."""
    app_dir: Path | None = None
    events: Draw
    """Draws random events for one producer."""
    setup: str = ""
    """SQL that runs once, before the first listener starts."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """Queries by name, each of which must return no row after the drain."""
    rules: Rules = field(default_factory=Rules)
    replayed: tuple[str, ...] = ("*",)
    """Types whose dead letters are replayed during the run."""
    timed: str | None = None
    """The type of events whose waiting time is measured; None for all."""

    @property
    def group(self) -> str:
        """The group of its listeners, which is also the name of its schema."""
        return self.app.name


def own(*, killing_every: int = 0) -> Subject:
    """Return the built-in application; one in `killing_every` events kills a process, 0 for none."""
    return Subject(
        app=application.app,
        target="oncecast.chaos.application:app",
        events=lambda draw: application.events(draw, killing_every=killing_every),
        setup=application.EFFECTS,
        rules=OWN_RULES,
        replayed=("flaky",),
        timed="tick",
    )


def of_user(app: App, module: ModuleType, target: str, app_dir: Path, file: Path | None) -> Subject:
    """Return a user's application with the attributes of its module; its events come from `file` if given.

    Raises ConfigError for invalid attributes.
    """

    def given(name: str, type_: Any, form: str) -> Any:
        try:
            return msgspec.convert(getattr(module, name, type_() if callable(type_) else ()), type_)
        except msgspec.ValidationError:
            raise ConfigError(f"{module.__name__}.{name} is no {form}") from None

    may_die = tuple(given(MAY_DIE, tuple[str, ...], "sequence of event types, such as ('order.impossible',)"))
    subject = Subject(
        app=app,
        target=target,
        app_dir=app_dir,
        events=_of_file(file) if file else _of_module(module),
        setup=given(SETUP, str, "text of SQL"),
        checks=given(CHECKS, dict[str, str], 'dict of queries by name, {"sold equals events": "select …"}'),
        rules=Rules(may_be_dead=may_die),
        replayed=may_die,
    )
    next(subject.events(random.Random(0)))  # report an invalid generator before anything starts
    return subject


def _of_module(module: ModuleType) -> Draw:
    make = getattr(module, GENERATOR, None)
    name = f"{module.__name__}.{GENERATOR}"
    if not callable(make):
        raise ConfigError(
            f"there are no events to publish: write 'def {GENERATOR}(draw: random.Random) -> Iterator[Event]' in"
            f" module {module.__name__}, or name a file with --events"
        )

    def draw_events(draw: random.Random) -> Iterator[Event]:
        count = 0
        try:
            for count, event in enumerate(make(draw), 1):  # noqa: B007
                if not isinstance(event, Event):
                    raise ConfigError(f"{name} yields a {type(event).__name__}; it is to yield oncecast.Event")
                yield event
        except ConfigError:
            raise
        except Exception as error:  # an error of the user's code
            raise ConfigError(f"{name} failed at event {count + 1}: {type(error).__name__}: {error}") from error
        if not count:
            raise ConfigError(f"{name} yields no event")

    return draw_events


def _of_file(file: Path) -> Draw:
    """Return a generator of the events of an NDJSON file, repeated without end under new ids."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"--events: cannot read {file}: {error.strerror}") from None
    events = [_event(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not events:
        raise ConfigError(f"--events: there is no event in {file}")
    return lambda _draw: (replace(event, id=new_id()) for event in itertools.cycle(events))


def _event(line: bytes, place: str) -> Event:
    """Parse a CloudEvent, or wrap a bare event as a producer would."""
    try:
        members = msgspec.json.decode(line, type=dict[str, Any])
        if "specversion" in members:
            if missing := [name for name in ("source", "type") if not isinstance(members.get(name), str)]:
                raise ValueError(f"a CloudEvent has a {missing[0]}")
            return Event.from_json(msgspec.json.encode({"id": "", **members}))
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"--events: {place} is no event: {error}") from None
    type_ = members.get("type")
    return Event.new(type_ if isinstance(type_, str) and type_ else "event", members)
