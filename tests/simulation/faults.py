"""The faults of a run: each injects, waits for its length, clears, and returns whether it had any effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oncecast.core.errors import JournalUnavailable
from oncecast.core.journal import JournalBatch
from oncecast.http.problems import Problem
from tests.simulation.application import GROUP
from tests.simulation.loop import begin, owned_by, sleep

if TYPE_CHECKING:
    from tests.simulation.world import Process, World


@dataclass(frozen=True, slots=True)
class Action:
    """A fault of `kind` at `at_s` for `length_s`; `which` selects its target, modulo their number."""

    at_s: float
    kind: str
    which: int
    length_s: float


CONFLICT_WITHIN_S = 5.0
POSTGRES_FAILS_OVER = "PostgreSQL fails over to an older state"
"""Kinds with which journals keep everything: they must still have what PostgreSQL loses."""
REDIS_FAILS_OVER = "Redis fails over to an older state"

LISTENER_STEPS, PRODUCER_STEPS = 200, 20
CRASH_WITHIN_S = 20.0
"""Even an idle process takes this number of steps meanwhile."""
REPLAY_AFTER_S = 8.0
"""At this time some events have spent all their attempts."""

Inflict = Callable[["World", Action], Awaitable[bool]]
FAULTS: dict[str, Inflict] = {}


def fault(kind: str) -> Callable[[Inflict], Inflict]:
    """Register a function that injects `kind`."""

    def enter(inflict: Inflict) -> Inflict:
        FAULTS[kind] = inflict
        return inflict

    return enter


# --- processes --------------------------------------------------------------------------------------------


@fault("listener crash")
async def _listener_crash(world: World, action: Action) -> bool:
    return await _crash(world, world.listener(action.which), int(action.length_s * 1_000) % LISTENER_STEPS)


@fault("producer crash")
async def _producer_crash(world: World, action: Action) -> bool:
    return await _crash(world, world.producer(action.which), int(action.length_s * 1_000) % PRODUCER_STEPS)


async def _crash(world: World, process: Process, steps: int) -> bool:
    """Crash after some more steps: the clock alone never strikes between two that take no time."""
    vanished: list[bool] = []
    world.loop.strike_after(process.owner, steps, lambda: vanished.append(world.vanish(process)))
    await sleep(CRASH_WITHIN_S)
    return any(vanished)


@fault("listener freeze")
async def _listener_freeze(world: World, action: Action) -> bool:
    return await _freeze(world, world.listener(action.which), action.length_s)


@fault("producer freeze")
async def _producer_freeze(world: World, action: Action) -> bool:
    return await _freeze(world, world.producer(action.which), action.length_s)


async def _freeze(world: World, process: Process, seconds: float) -> bool:
    owner = process.owner
    world.loop.freeze(owner)
    await sleep(seconds)
    return world.loop.thaw(owner) > 0


@fault("listener stopped")
async def _stop(world: World, action: Action) -> bool:
    stop = world.listener(action.which).stop
    if stop is None or stop.is_set():
        return False
    stop.set()
    return True


@fault("wall clock jumps")
async def _wall_clock(world: World, action: Action) -> bool:
    world.clock.jumped_s += world.draw.choice((-3600.0, 3600.0))
    return True


# --- links ------------------------------------------------------------------------------------------------


@fault("listener cut from PostgreSQL")
async def _cut_postgres(world: World, action: Action) -> bool:
    return await _cut(world, f"{world.listener(action.which).name}>postgres", action.length_s)


@fault("listener cut from Redis")
async def _cut_redis(world: World, action: Action) -> bool:
    return await _cut(world, f"{world.listener(action.which).name}>redis", action.length_s)


@fault("listener cut from producer")
async def _cut_producer(world: World, action: Action) -> bool:
    listener, producer = world.listener(action.which), world.producer(action.which)
    broken = world.break_wires(lambda wire: (wire.listener, wire.producer) == (listener.name, producer.name))
    return await _cut(world, f"{listener.name}>{producer.name}", action.length_s) or broken > 0


@fault("connections reset")
async def _reset(world: World, action: Action) -> bool:
    listener = world.listener(action.which)
    return world.break_wires(lambda wire: wire.listener == listener.name) > 0


@fault("answers lost")
async def _lose_answers(world: World, action: Action) -> bool:
    name = world.listener(action.which).name
    before = world.servers.felt[name]
    world.servers.lossy[name] += 1
    await sleep(action.length_s)
    world.servers.lossy[name] -= 1
    return world.servers.felt[name] > before


async def _cut(world: World, what: str, seconds: float) -> bool:
    before = world.servers.felt[what]
    with world.servers.without(what):
        await sleep(seconds)
    return world.servers.felt[what] > before


# --- PostgreSQL and Redis ---------------------------------------------------------------------------------


@fault("PostgreSQL down")
async def _postgres_down(world: World, action: Action) -> bool:
    world.postgres.fail_over(world.postgres.tables)
    return await _cut(world, "postgres", action.length_s)


@fault("PostgreSQL frozen")
async def _postgres_frozen(world: World, action: Action) -> bool:
    return await _freeze_server(world, "postgres", action.length_s)


@fault(POSTGRES_FAILS_OVER)
async def _postgres_fails_over(world: World, action: Action) -> bool:
    if not world.snapshots:
        return False
    older = world.snapshots[action.which % len(world.snapshots)][0]
    lost = world.postgres.tables.rows.keys() - older.rows.keys()
    world.postgres.fail_over(older)
    world.watch.postgres_went_back = True
    world.watch.has_gone_back()
    return bool(lost)


@fault("Redis down, and empty afterwards")
async def _redis_down(world: World, action: Action) -> bool:
    world.redis.empty()
    return await _cut(world, "redis", action.length_s)


@fault("Redis emptied")
async def _redis_emptied(world: World, action: Action) -> bool:
    held = bool(world.redis.leases)
    world.redis.empty()
    return held


@fault("Redis lags")
async def _redis_lags(world: World, action: Action) -> bool:
    return await _freeze_server(world, "redis", action.length_s)


@fault(REDIS_FAILS_OVER)
async def _redis_fails_over(world: World, action: Action) -> bool:
    if not world.snapshots:
        return False
    older = world.snapshots[action.which % len(world.snapshots)][1]
    differs = older.leases != world.redis.leases
    world.redis.fail_over(older)
    return differs


async def _freeze_server(world: World, server: str, seconds: float) -> bool:
    before = world.servers.felt[f"frozen {server}"]
    await world.servers.freeze(server, seconds)
    return world.servers.felt[f"frozen {server}"] > before


# --- journals ---------------------------------------------------------------------------------------------


@fault("journal refuses")
async def _refuse(world: World, action: Action) -> bool:
    producer = world.producer(action.which)
    before = world.publishers.refusals[producer.name]
    journal = producer.journal
    journal.failing = JournalUnavailable("the disk is full")
    await sleep(action.length_s)
    journal.failing = None
    return world.publishers.refusals[producer.name] > before


@fault("journal restored from a copy")
async def _restore(world: World, action: Action) -> bool:
    """Restore a copy from `length_s` ago; publishers are notified, and publish again what it lacks."""
    producer = world.producer(action.which)
    if not world.publishers.begin_copy(producer.name):
        return False
    copy = deepcopy(world.kept[producer.name])
    await sleep(action.length_s)
    world.vanish(producer)
    world.kept[producer.name] = copy
    world.watch.has_gone_back()
    world.start_producer(producer)
    return await world.publishers.after_restore(producer.name)


@fault("journal row given up")
async def _skip(world: World, action: Action) -> bool:
    """Damage one row of the journal before any listener has read it; an operator skips it."""
    producer = world.producer(action.which)
    batches = world.kept[producer.name].batches
    received = world.received_of(producer.name)
    unread = [n for n, batch in enumerate(batches) if not batch.is_gap and batch.first_offset > received]
    if not unread:
        return False
    world.vanish(producer)
    lost = batches[unread[-1]]
    world.watch.give_up(world.kept[producer.name].name, lost)
    batches[unread[-1]] = JournalBatch(lost.first_offset, lost.count, lost.at_us, b"[]")
    return True


@fault("group forgotten")
async def _forget(world: World, action: Action) -> bool:
    """Cut off a producer from all listeners; its operator has it forget the group."""
    producer = world.producer(action.which)
    world.break_wires(lambda wire: wire.producer == producer.name)
    before = len(world.watch.given_up)
    cut = begin(_cut(world, f"listeners>{producer.name}", action.length_s))
    await sleep(action.length_s * 0.9)
    if producer.running:
        with owned_by(producer.owner), suppress(Problem, JournalUnavailable):
            await producer.service.retention.forget(GROUP)
            await producer.service.retention.tick()
    await cut
    return len(world.watch.given_up) > before


# --- operators --------------------------------------------------------------------------------------------


@fault("published again")
async def _publish_again(world: World, action: Action) -> bool:
    return await world.publishers.publish_again(world.producer(action.which).name, n=0)


@fault("published again with other content")
async def _publish_otherwise(world: World, action: Action) -> bool:
    before = len(world.postgres.tables.conflicts)
    if not await world.publishers.publish_again(world.producer(action.which).name, n=1):
        return False
    await sleep(CONFLICT_WITHIN_S)
    return len(world.postgres.tables.conflicts) > before


@fault("replay")
async def _replay(world: World, action: Action) -> bool:
    """Fix the handlers, and ask every listener at once to replay all dead letters that this may help."""
    await sleep(REPLAY_AFTER_S + action.length_s)
    world.edit()
    dead = [row for row in world.postgres.tables.rows.values() if row.status == "dead" and row.type.endswith("flaky")]
    alive = [process for process in world.listeners if process.running and process.service is not None]
    for process in (*alive, *alive[:1]):
        with owned_by(process.owner):
            for row in dead:
                begin(process.service.replays.replay(row.source, row.id))
    return bool(dead and alive)


KINDS = (*FAULTS, "retention")
"""Retention is always on; it counts when it deletes."""
