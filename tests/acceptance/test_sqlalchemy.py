"""docs/how-to/use-sqlalchemy.md: its recipe, with all kinds of statements, and its application run as they stand."""

from __future__ import annotations

import enum
import importlib.util
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from oncecast import Event, Publisher
from oncecast.clock import SYSTEM_CLOCK
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.transaction import HandlerTransaction
from tests.support.documents import blocks
from tests.support.stacks import StackOf, drained, rows

DOCUMENT = Path(__file__).parents[2] / "docs/how-to/use-sqlalchemy.md"

Sql = Callable[[Any], tuple[str, dict[str, Any]]]


def write_files(folder: Path) -> None:
    """Each block of Python as the file that its first line names."""
    for block in blocks(DOCUMENT.read_text("utf-8")):
        assert block.language == "python"
        (folder / block.text.partition("\n")[0].removeprefix("# ")).write_text(block.text)


@pytest.fixture
def sql(tmp_path: Path) -> Sql:
    write_files(tmp_path)
    spec = importlib.util.spec_from_file_location("statements", tmp_path / "statements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe: Sql = module.sql
    return recipe


class Colour(enum.Enum):
    RED = "#f00"
    BLUE = "#00f"


class Celsius(sa.types.TypeDecorator[float]):
    """Somebody's own type: kept in tenths."""

    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else round(value * 10)


class Base(DeclarativeBase):
    pass


class MappedThing(Base):
    __tablename__ = "mapped"
    id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int]


mapped = Base.metadata.tables["mapped"]
metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("colour", sa.Enum(Colour, name="colour", native_enum=False)),
    sa.Column("plain", sa.JSON),
    sa.Column("packed", JSONB),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("day", sa.Date),
    sa.Column("length", sa.Interval),
    sa.Column("price", sa.Numeric(10, 2)),
    sa.Column("key", sa.Uuid),
    sa.Column("tags", ARRAY(sa.Text)),
    sa.Column("warmth", Celsius),
    sa.Column("odd %(name)s", sa.Text),
    sa.Column("made_at", sa.DateTime, server_default=sa.func.now()),
)
defaulted = sa.Table(
    "defaulted",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, default=lambda: "drawn"),
    sa.Column("n", sa.Integer, onupdate=1),
    sa.Column("m", sa.Integer),
)


@pytest.fixture
async def tx(postgres_url: str, schema: str) -> AsyncIterator[HandlerTransaction]:
    """A handler's transaction, in a schema of the test's own that is rolled back."""
    async with await PostgresConnection.connect(postgres_url) as connection:
        await connection.execute(f"create schema {schema}")
        await connection.execute(f"set local search_path to {schema}")
        for table in (things, mapped):
            dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
            await connection.execute(str(CreateTable(table).compile(dialect=dialect)))
        yield HandlerTransaction(connection, b"", SYSTEM_CLOCK, statement_timeout_s=30.0, undo_s=5.0)
        await connection.rollback()


WHOLE: dict[str, Any] = {
    "id": 1,
    "name": "50% of %(name)s and %s",
    "colour": Colour.RED,
    "plain": {"a": [1, None, "é"]},
    "packed": [{"b": True}],
    "at": datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2))),
    "day": date(2026, 3, 1),
    "length": timedelta(hours=25),
    "price": Decimal("19.90"),
    "key": UUID(int=7),
    "tags": ["x", "y"],
    "warmth": 21.5,
    "odd %(name)s": "odd",
}


async def test_every_type_arrives_as_its_column_holds_it(tx: HandlerTransaction, sql: Sql) -> None:
    assert await tx.execute(*sql(sa.insert(things).values(WHOLE))) == 1
    [row] = await tx.fetch_all(*sql(sa.select(things)))
    made_at = row.pop("made_at")
    assert made_at is not None, "the server's default"
    assert row == {**WHOLE, "colour": "RED", "warmth": 215, "at": datetime(2026, 3, 1, 10, tzinfo=UTC)}
    assert await tx.fetch_all(*sql(sa.select(things.c.id).where(things.c.colour == Colour.RED))) == [{"id": 1}]


async def test_no_value_is_null_and_json_has_its_own(tx: HandlerTransaction, sql: Sql) -> None:
    await tx.execute(*sql(sa.insert(things).values(id=1, name=None, colour=None, plain=None, packed=sa.null())))
    query = "select name is null and colour is null as n, plain::text as plain, packed from things"
    assert await tx.fetch_one(query) == {"n": True, "plain": "null", "packed": None}


async def test_a_list_becomes_as_many_parameters_each_of_its_columns_type(tx: HandlerTransaction, sql: Sql) -> None:
    many = [{"id": n, "name": f"n{n}", "colour": list(Colour)[n % 2], "warmth": n / 10} for n in range(6)]
    assert await tx.execute(*sql(sa.insert(things).values(many))) == 6
    ids = sa.select(things.c.id).order_by(things.c.id)

    async def found(condition: Any) -> list[int]:
        return [row["id"] for row in await tx.fetch_all(*sql(ids.where(condition)))]

    assert await found(things.c.id.in_([1, 3, 77])) == [1, 3]
    assert await found(things.c.id.in_([])) == []
    assert await found(things.c.id.not_in([0, 1, 2, 3])) == [4, 5]
    assert await found(things.c.colour.in_([Colour.BLUE])) == [1, 3, 5]
    assert await found(things.c.warmth.in_([0.2, 0.4])) == [2, 4]
    assert await found(sa.tuple_(things.c.id, things.c.name).in_([(1, "n1"), (2, "n3")])) == [1]
    assert await found(things.c.name.like("n%") & sa.text("name <> 'n%' and id > :least").bindparams(least=3)) == [
        4,
        5,
    ]
    assert [row["id"] for row in await tx.fetch_all(*sql(ids.limit(2).offset(1)))] == [1, 2]


async def test_update_delete_and_upsert_return_what_they_wrote(tx: HandlerTransaction, sql: Sql) -> None:
    await tx.execute(*sql(sa.insert(things).values(WHOLE)))
    update = (
        sa.update(things).where(things.c.id == 1).values(warmth=3.5, price=things.c.price * 2, colour=Colour.BLUE)
    )
    returned = await tx.fetch_one(*sql(update.returning(things.c.warmth, things.c.price, things.c.colour)))
    assert returned == {"warmth": 35, "price": Decimal("39.80"), "colour": "BLUE"}
    again = insert(things).values(id=1, name="again", packed={"c": 1})
    upsert = again.on_conflict_do_update(
        index_elements=[things.c.id],
        set_={"name": things.c.name + again.excluded.name, "packed": again.excluded.packed, "colour": Colour.RED},
    ).returning(things.c.name, things.c.packed, things.c.colour)
    assert await tx.fetch_one(*sql(upsert)) == {"name": WHOLE["name"] + "again", "packed": {"c": 1}, "colour": "RED"}
    assert await tx.execute(*sql(again.on_conflict_do_nothing())) == 0
    gone = sa.delete(things).where(things.c.packed["c"].as_integer() == 1).returning(things.c.id)
    assert await tx.fetch_all(*sql(gone)) == [{"id": 1}]


async def test_joins_subqueries_and_functions_work_and_two_columns_of_one_name_are_distinguished(
    tx: HandlerTransaction, sql: Sql
) -> None:
    await tx.execute(*sql(sa.insert(things).values([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])))
    one, two = things.alias("one"), things.alias("two")
    pairs = sa.select(one.c.name, two.c.name).join(two, two.c.id == one.c.id + 1)
    assert await tx.fetch_all(*sql(pairs)) == [{"name": "a", "name_1": "b"}]
    newest = sa.select(sa.func.max(things.c.id)).scalar_subquery()
    counted = sa.select(sa.func.count().label("n")).where(things.c.id < newest)
    assert await tx.fetch_one(*sql(counted)) == {"n": 1}


async def test_a_mapped_class_is_good_as_a_table(tx: HandlerTransaction, sql: Sql) -> None:
    await tx.execute(*sql(sa.insert(mapped).values(id="a", n=1)))
    assert await tx.fetch_all(*sql(sa.select(mapped))) == [{"id": "a", "n": 1}]


def test_statements_that_would_silently_do_the_wrong_thing_are_refused(sql: Sql) -> None:
    with pytest.raises(TypeError, match=r"defaulted.id: give the value: nobody here makes"):
        sql(sa.insert(defaulted).values(n=1, m=1))
    with pytest.raises(TypeError, match=r"defaulted.n: give the value"):
        sql(sa.update(defaulted).values(m=1))
    with pytest.raises(TypeError, match="belongs into a migration"):
        sql(CreateTable(defaulted))
    assert sql(sa.insert(defaulted).values(id="given", m=1))
    assert sql(sa.update(defaulted).values(n=2, m=1))


async def test_the_application_of_the_document_does_what_it_says(stack_of: StackOf, tmp_path: Path) -> None:
    write_files(tmp_path)
    async with stack_of(app="shop:app", app_dir=tmp_path) as stack, Publisher(stack.publish_url) as publisher:
        async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
            await connection.execute("create table public.stock (sku text primary key, free integer not null)")
            await connection.execute(
                "create table public.orders (id text primary key, state varchar(8) not null, lines json not null,"
                " changed_at timestamptz not null)"
            )
            await connection.execute("insert into public.stock values ('A-1', 5), ('B-2', 1)")
        good = [{"sku": "A-1", "count": 2}, {"sku": "B-2", "count": 1}]
        await publisher.publish(Event.new("order.created", {"lines": good}, id="good"))
        await drained(stack)
        await publisher.publish(Event.new("order.created", {"lines": good}, id="sold-out"))
        await publisher.publish(Event.new("order.created", {"lines": [{"sku": "C-3", "count": 1}]}, id="unknown"))
        await drained(stack)
        assert await rows(stack, "select * from public.stock order by 1") == [("A-1", 3), ("B-2", 0)]
        assert await rows(stack, "select id, state, lines from public.orders") == [("good", "RESERVED", good)]
        causes = await rows(stack, "select id, error from shop.dead_letters order by 1")
    assert [id for id, _ in causes] == ["sold-out", "unknown"]
    assert ["B-2 is sold out" in causes[0][1], "an article is unknown" in causes[1][1]] == [True, True]
