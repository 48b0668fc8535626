"""The application under simulation: as that of `oncecast chaos`, but its one statement counts in memory.

The first part of an event's type selects the handler, the last part its outcome: `ordered.flaky`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from oncecast.app.application import App
from oncecast.chaos.judge import Rules
from oncecast.core.errors import Retry
from oncecast.core.event import DEFAULT_SOURCE, follow_up_id
from oncecast.core.transaction import Transaction
from oncecast.event import Event
from oncecast.testing.memory.postgres import EFFECT
from tests.simulation.loop import sleep

GROUP = "simulated"
FOLLOWED = "followed"
"""The type of all follow-ups."""

_SHARES: dict[str, dict[str, float]] = {
    "tick": {"": 24},
    "counted": {"": 16},
    "slow": {"": 4},
    "flaky": {"": 6},
    "failing": {"": 3},
    "swallowing": {"": 3},
    "killing": {"": 0.5},
    "batched": {"": 10, ".failing": 2, ".flaky": 1, ".chained": 2, ".killing": 0.2},
    "shared": {"": 8, ".failing": 2, ".chained": 1},
    "ordered": {"": 16, ".failing": 1.5, ".flaky": 4, ".killing": 0.2},
    "chained": {"": 6, ".flaky": 2},
    "wavering": {"": 3},
    "retrying": {"": 3, ".failing": 0.5},
}
TYPES = {f"{handler}{way}": share for handler, ways in _SHARES.items() for way, share in ways.items()}
"""The types, each with its weight."""
KEYS = "abc"
"""The keys of ordered events."""

_CANNOT_SUCCEED = ("failing", "swallowing", "killing")
_STORED = frozenset((*(type_ for type_ in TYPES if not type_.endswith(_CANNOT_SUCCEED)), FOLLOWED))
RULES = Rules(
    may_be_stored=_STORED,
    may_be_dead=frozenset(type_ for type_ in TYPES if type_.endswith((*_CANNOT_SUCCEED, "flaky"))),
    has_effect=_STORED - {"tick"},
)
_FOLLOW_UPS = {"chained": ("chain", 0), "wavering": ("waver", 1), "batched": ("batch", 0), "shared": ("share", 0)}


def follow_up_of(type: str, id: str) -> str | None:
    """Return the id of the follow-up of a stored event, or None."""
    if type != "wavering" and "chained" not in type:
        return None
    handler, index = _FOLLOW_UPS[type.partition(".")[0]]
    return follow_up_id(DEFAULT_SOURCE, id, GROUP, f"application.<locals>.{handler}", index)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What handlers can access of the run."""

    draw: random.Random
    is_edited: Callable[[], bool]
    """Whether flaky events may succeed."""
    vanish: Callable[[], object]
    """Crashes the calling process."""
    entered: Callable[[str, Transaction], None]
    """Called when a handler starts an event of this key on this transaction."""
    retried: set[str]
    """Ids whose handler has requested a retry."""
    batch_max: int

    async def undergo(self, event: Event) -> None:
        """Fail, wait or crash as the event's type says."""
        way = event.type.rpartition(".")[2]
        if way == "failing":
            raise RuntimeError("scripted failure")
        if way == "flaky" and (not self.is_edited() or self.draw.random() < 0.3):
            raise RuntimeError("random failure")
        if way == "killing":
            self.vanish()
            await asyncio.Event().wait()


def application(at: Surroundings) -> App:
    """Return an application for all listeners of a run; it has no state of its own."""
    app = App(GROUP)

    @app.on("counted", "flaky", "slow", "failing", "killing", FOLLOWED)
    async def count(event: Event, tx: Transaction) -> None:
        await tx.execute(EFFECT, (event.id,))

    @app.on("flaky", "failing", "killing")
    async def undergo(event: Event, tx: Transaction) -> None:
        await at.undergo(event)

    @app.on("slow")
    async def be_slow(event: Event, tx: Transaction) -> None:
        await sleep(at.draw.uniform(0.1, 3.0))

    @app.on("swallowing")
    async def swallow(event: Event, tx: Transaction) -> None:
        with contextlib.suppress(SyntaxError):
            await tx.execute(EFFECT, (event.id,))
            await tx.execute("no statement")

    @app.on_batch("batched*", max_events=at.batch_max)
    async def batch(events: list[Event], tx: Transaction) -> None:
        for event in events:
            await tx.execute(EFFECT, (event.id,))
            if event.type == "batched.chained":
                event.emit(_follow_up(event))
            await at.undergo(event)

    @app.on("shared*", share_transaction=True)
    async def share(event: Event, tx: Transaction) -> None:
        await tx.execute(EFFECT, (event.id,))
        if event.type == "shared.chained":
            event.emit(_follow_up(event))
        await at.undergo(event)

    @app.on("ordered*", ordered_by="subject")
    async def keep_order(event: Event, tx: Transaction) -> None:
        at.entered(str(event.subject), tx)
        await tx.execute(EFFECT, (event.id,))
        await sleep(at.draw.choice((0.0, at.draw.uniform(0, 1))))
        await at.undergo(event)

    @app.on("chained*")
    async def chain(event: Event, tx: Transaction) -> None:
        event.emit(_follow_up(event))
        await tx.execute(EFFECT, (event.id,))
        await at.undergo(event)

    @app.on("wavering")
    async def waver(event: Event, tx: Transaction) -> None:
        with contextlib.suppress(ValueError):
            async with tx.savepoint():
                await tx.execute(EFFECT, (event.id,))
                event.emit(_follow_up(event))
                raise ValueError("on second thoughts")
        await tx.execute(EFFECT, (event.id,))
        event.emit(_follow_up(event))

    @app.on("retrying*")
    async def retry(event: Event, tx: Transaction) -> None:
        await tx.execute(EFFECT, (event.id,))
        if event.type == "retrying.failing" or event.id not in at.retried:
            at.retried.add(event.id)
            raise Retry("not yet", after=at.draw.choice((0, 0.5, 5, "1h")))

    return app


def _follow_up(event: Event) -> Event:
    return Event.new(FOLLOWED, {"cause": event.id})
