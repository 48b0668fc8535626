"""What every store of unsent dead letters must do: give each to one sender at a time, and lose none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from oncecast.clock import SYSTEM_CLOCK
from oncecast.core.dead_letter_ports import OTHERS_AFTER_S, UnforwardedDeadLetters
from oncecast.core.errors import Reject
from oncecast.core.ports import EventStore
from oncecast.stores.postgres import Database, PostgresEvents, PostgresUnforwarded
from oncecast.stores.postgres.database import Limits
from oncecast.testing.memory import MemoryEvents, MemoryUnforwarded
from tests.support import event_stores as ending
from tests.support.places import arrival


class Postgres(ending.Postgres):
    """The real one."""

    async def of(self, instance: str) -> tuple[EventStore, UnforwardedDeadLetters]:  # type: ignore[override]
        database = Database(
            self._url, SYSTEM_CLOCK, schema=self._schema, instance=instance, token=instance, limits=Limits(lock_s=1.0)
        )
        await database.open()
        await database.migrate()
        self._databases.append(database)
        return PostgresEvents(database), PostgresUnforwarded(database)

    async def pass_time(self) -> None:
        """More than OTHERS_AFTER_S."""
        for column in ("died_at", "send_claimed_at"):
            shift = f"{column} = {column} - interval '{OTHERS_AFTER_S + 1} seconds'"
            await self._ask(f'update "{self._schema}".dead_letters set {shift}')
        await self._ask(f"update \"{self._schema}\".sending set began_at = began_at - interval '1 hour'")

    async def discard(self, id: str) -> None:
        await self._ask(f"update \"{self._schema}\".dead_letters set discarded_at = now() where id = '{id}'")


class Memory(ending.Memory):
    """The one that stands for it."""

    async def of(self, instance: str) -> tuple[EventStore, UnforwardedDeadLetters]:  # type: ignore[override]
        return (
            MemoryEvents(self._server, instance=instance, token=instance),
            MemoryUnforwarded(self._server, instance=instance, token=instance),
        )

    async def pass_time(self) -> None:
        """More than OTHERS_AFTER_S."""
        tables = self._server.tables
        for dead_letter in tables.dead_letters.values():
            dead_letter.died_at_s -= OTHERS_AFTER_S + 1
            if dead_letter.send_claimed_at_s is not None:
                dead_letter.send_claimed_at_s -= OTHERS_AFTER_S + 1
        if tables.sending_since_s is not None:
            tables.sending_since_s -= 3_600

    async def discard(self, id: str) -> None:
        for identity, dead_letter in self._server.tables.dead_letters.items():
            if identity.endswith(f"\0{id}"):
                dead_letter.discarded = True


Server = Postgres | Memory


@pytest.fixture(params=["memory", "postgres"])
async def server(request: pytest.FixtureRequest, schema: str) -> AsyncIterator[Server]:
    server = Memory() if request.param == "memory" else Postgres(request.getfixturevalue("postgres_url"), schema)
    yield server
    await server.close()


async def ids(dead_letters: UnforwardedDeadLetters, limit: int = 100) -> list[str]:
    """Of what is claimed."""
    return [dead_letter.id for dead_letter in await dead_letters.claim(limit)]


async def dead_letter(store: EventStore, *offsets: int) -> None:
    for offset in offsets:
        await store.dead_letter(arrival(offset), Reject("no"))


async def test_what_died_before_there_was_a_broker_is_not_sent_and_all_that_dies_later_is(server: Server) -> None:
    store, dead_letters = await server.of("a")
    await dead_letter(store, 1)
    assert (await dead_letters.count(), await dead_letters.claim(10)) == (0, [])
    await dead_letters.begin()
    assert (await dead_letters.count(), await dead_letters.claim(10)) == (0, [])
    await dead_letter(store, 2, 3)
    assert await dead_letters.count() == 2
    [second, third] = await dead_letters.claim(10)
    assert (second.id, second.error, second.attempts, second.listener) == ("id-2", "Reject: no", 1, "a")
    assert third.id == "id-3"
    _, again = await server.of("a")  # the process restarts
    await again.begin()
    await dead_letter(store, 4)
    assert (await ids(again), await again.count()) == (["id-4"], 3)


async def test_what_is_sent_is_not_given_out_again_and_what_was_claimed_is_only_after_a_minute(
    server: Server,
) -> None:
    store, dead_letters = await server.of("a")
    await dead_letters.begin()
    await dead_letter(store, 1, 2, 3)
    first = await dead_letters.claim(1)
    await dead_letters.mark_forwarded(first)
    assert await ids(dead_letters) == ["id-2", "id-3"]
    assert await ids(dead_letters) == []
    await server.pass_time()
    assert (await ids(dead_letters), await dead_letters.count()) == (["id-2", "id-3"], 2)


async def test_what_could_not_be_sent_is_given_out_again_at_once(server: Server) -> None:
    store, dead_letters = await server.of("a")
    await dead_letters.begin()
    await dead_letter(store, 1)
    claimed = await dead_letters.claim(10)
    await dead_letters.release(claimed)
    assert await ids(dead_letters) == ["id-1"]


async def test_any_listener_may_send_the_dead_letters_of_a_listener_that_is_gone_for_a_minute(server: Server) -> None:
    gone, its = await server.of("gone")
    store, dead_letters = await server.of("a")
    await its.begin()
    await dead_letter(gone, 1)
    await dead_letter(store, 2)
    assert (await ids(dead_letters), await dead_letters.count()) == (["id-2"], 2)
    await server.pass_time()
    assert await ids(dead_letters) == ["id-1", "id-2"]


async def test_two_concurrent_senders_get_different_dead_letters(server: Server) -> None:
    store, dead_letters = await server.of("a")
    _, others = await server.of("b")
    await dead_letters.begin()
    await dead_letter(store, *range(1, 41))
    await server.pass_time()
    shares = await asyncio.gather(*(ids(each, 5) for each in [dead_letters, others] * 4))
    assert sorted(id_ for share in shares for id_ in share) == sorted(f"id-{n}" for n in range(1, 41))


async def test_a_row_that_somebody_is_at_for_a_moment_is_marked_all_the_same(postgres_url: str, schema: str) -> None:
    server = Postgres(postgres_url, schema)
    store, dead_letters = await server.of("a")
    await dead_letters.begin()
    await dead_letter(store, 1, 2)
    claimed = await dead_letters.claim(10)
    async with await psycopg.AsyncConnection.connect(postgres_url) as filing:
        await filing.execute(f"update \"{schema}\".dead_letters set logged_at = now() where id = 'id-1'")
        marking = asyncio.create_task(dead_letters.mark_forwarded(claimed))
        done, _ = await asyncio.wait([marking], timeout=0.3)
        assert not done
    await marking
    assert await dead_letters.count() == 0
    await server.close()


async def test_a_locked_row_does_not_keep_other_dead_letters_from_being_marked_as_forwarded(
    postgres_url: str, schema: str
) -> None:
    server = Postgres(postgres_url, schema)
    store, dead_letters = await server.of("a")
    await dead_letters.begin()
    await dead_letter(store, 1, 2, 3)
    claimed = await dead_letters.claim(10)
    async with await psycopg.AsyncConnection.connect(postgres_url) as replay:
        await replay.execute(f"update \"{schema}\".dead_letters set replayed_at = now() where id = 'id-2'")
        await dead_letters.mark_forwarded(claimed)
    await server.pass_time()
    assert await ids(dead_letters) == ["id-2"]
    await server.close()


async def test_what_an_operator_has_discarded_is_not_sent(server: Server) -> None:
    store, dead_letters = await server.of("a")
    await dead_letters.begin()
    await dead_letter(store, 1, 2)
    await server.discard("id-1")
    assert (await ids(dead_letters), await dead_letters.count()) == (["id-2"], 1)
