"""The group's schema: migrations, the rights that a listener needs, and both as SQL for psql."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from oncecast.core.errors import StartError
from oncecast.stores.postgres.connection import PostgresConnection
from oncecast.stores.postgres.queries import in_schema

MIGRATION_DEADLINE_S = 900.0
"""The time limit of a migration, which may rewrite a large table; after a time-out it begins again."""
RIGHTS = ("select", "insert", "update", "delete")
"""The rights that a listener needs on each of its tables; on `migrations` the first is enough."""
NAMES_SHOWN_MAX = 5
_TABLE = re.compile(r"^create table \{schema\}\.(\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^create (?:or replace )?function \{schema\}\.(\w+)", re.MULTILINE)
_MIGRATIONS = (
    "create table {schema}.migrations (number integer primary key, name text not null,"
    " applied_at timestamptz not null default clock_timestamp())"
)
_STATE = """
select n.oid is not null, coalesce(m.is_known, false), array(
    select relname::text from pg_class where relnamespace = n.oid and relkind in ('r', 'p', 'v', 'm', 'f')
    order by relname)
from (select %(schema)s::name as name) w left join pg_namespace n on n.nspname = w.name
left join lateral (
    select count(*) = 2 as is_known from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = n.oid and c.relname = 'migrations' and a.attname in ('number', 'name')
) m on true
"""
_MISSING = """
select current_user::text, null, 'usage' from pg_namespace n
where n.nspname = %(schema)s and not has_schema_privilege(n.oid, 'usage')
union all
select current_user::text, c.relname::text, r.name
from pg_class c join pg_namespace n on n.oid = c.relnamespace cross join unnest(%(rights)s::text[]) as r (name)
where n.nspname = %(schema)s and c.relname = any(%(tables)s) and (r.name = 'select' or c.relname <> 'migrations')
    and not has_table_privilege(c.oid, r.name)
union all
select current_user::text, p.proname::text, 'execute'
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname = %(schema)s and p.proname = any(%(functions)s) and not has_function_privilege(p.oid, 'execute')
order by 2, 3
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """An SQL file, with `{schema}` for the group's schema."""

    number: int
    name: str
    text: str


@cache
def migrations() -> Sequence[Migration]:
    """Return all migrations in order."""
    files = sorted(resources.files(__package__).joinpath("sql/migrations").iterdir(), key=lambda file: file.name)
    return [Migration(int(file.name.partition("_")[0]), file.name, file.read_text("utf-8")) for file in files]


@cache
def tables() -> Sequence[str]:
    """Return the names of all tables in a group's schema."""
    return ["migrations", *sorted({name for one in migrations() for name in _TABLE.findall(one.text)})]


@cache
def functions() -> Sequence[str]:
    """Return the names of all functions in a group's schema."""
    return sorted({name for one in migrations() for name in _FUNCTION.findall(one.text)})


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Whether a schema exists, and the migrations that it lacks."""

    exists: bool
    is_new: bool
    """Whether it has no table `migrations` yet."""
    pending: Sequence[Migration]


async def read_state(connection: PostgresConnection, schema: str) -> SchemaState:
    """Read which migrations `schema` lacks. Raises StartError if it is another application's or not readable."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_STATE, {"schema": schema})
        exists, is_oncecasts, names = await cursor.fetchone() or (False, False, [])
        if not is_oncecasts:
            if names:
                raise StartError(_of_others(schema, names))
            return SchemaState(exists=exists, is_new=True, pending=migrations())
        await check_rights(connection, schema, ["migrations"])
        await cursor.execute(in_schema("select number from {schema}.migrations", schema))
        applied = {number for (number,) in await cursor.fetchall()}
    return SchemaState(exists=True, is_new=False, pending=[one for one in migrations() if one.number not in applied])


async def bring_up_to_date(
    connection: PostgresConnection, schema: str, deadline: asyncio.Timeout, *, grant_to: str | None = None
) -> Sequence[str]:
    """Apply missing migrations, one process at a time; return their names. Raises StartError without the rights.

    Grants `grant_to` the rights of a listener; without it, the connection's role must have them.
    """
    async with connection.transaction():
        await connection.execute(
            "set local lock_timeout = 0"
        )  # wait for another process's migration, up to `deadline`
        await connection.execute("select pg_advisory_xact_lock(hashtext('oncecast'), hashtext(%s))", (schema,))
        state = await read_state(connection, schema)
        try:
            for statement in _statements(schema, state):
                deadline.reschedule(asyncio.get_running_loop().time() + MIGRATION_DEADLINE_S)
                await connection.execute(f"set local statement_timeout = '{MIGRATION_DEADLINE_S:.0f}s'".encode())
                await connection.execute(statement)
            for statement in grants(schema, grant_to) if grant_to else ():
                await connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            raise StartError(_what_it_takes(connection, schema, state, error)) from error
        if grant_to is None:
            await check_rights(connection, schema, tables())
    return [one.name for one in state.pending]


def script(schema: str, state: SchemaState, *, grant_to: str) -> str:
    """Return the SQL that brings `schema` up to date and lets the role `grant_to` run listeners in it."""
    statements = [
        sql.SQL("begin isolation level read committed read write"),
        *map(
            sql.SQL,
            (
                "set local client_min_messages = warning",
                "set local standard_conforming_strings = on",
                "set local search_path = pg_catalog, pg_temp",
                "set local default_table_access_method = heap",
            ),
        ),
        *_statements(schema, state),
        *grants(schema, grant_to),
        sql.SQL("commit"),
    ]
    return "".join(one.as_string().strip().rstrip(";") + ";\n\n" for one in statements)


def grants(schema: str, role: str) -> list[sql.Composed]:
    """Return the statements that grant `role` the rights of a listener, and no others."""
    to = sql.Identifier(role)
    return [
        sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(schema), to),
        sql.SQL("grant select on {} to {}").format(sql.Identifier(schema, "migrations"), to),
        _grant(RIGHTS, schema, tables()[1:], role),
        _grant_execute(schema, functions(), role),
    ]


def _statements(schema: str, state: SchemaState) -> Iterable[sql.Composed]:
    if not state.exists:
        yield in_schema("create schema {schema}", schema)
    if state.is_new:
        yield in_schema(_MIGRATIONS, schema)
    for one in state.pending:
        yield in_schema(one.text, schema)
        yield sql.SQL("insert into {} (number, name) values ({}, {})").format(
            sql.Identifier(schema, "migrations"), sql.Literal(one.number), sql.Literal(one.name)
        )


async def check_rights(connection: PostgresConnection, schema: str, of: Sequence[str]) -> None:
    """Raise StartError unless the role has a listener's rights on these tables; the text has the missing grants."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        values = {"schema": schema, "rights": list(RIGHTS), "tables": list(of), "functions": list(functions())}
        await cursor.execute(_MISSING, values)
        missing = await cursor.fetchall()
    if not missing:
        return
    role = missing[0][0]
    rights: dict[str, list[str]] = defaultdict(list)
    remedies: list[sql.Composed] = []
    for _, name, right in missing:
        if name is None:
            remedies.append(in_schema("grant usage on schema {schema} to ", schema) + sql.Identifier(role))
        elif right == "execute":
            remedies.append(_grant_execute(schema, [name], role))
        else:
            rights[name].append(right)
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, missing_rights in rights.items():
        alike[tuple(right for right in RIGHTS if right in missing_rights)].append(name)
    remedies += [_grant(some, schema, names, role) for some, names in alike.items()]
    raise StartError(
        f"the role {role} lacks rights in the schema {schema}; as its owner run: "
        + "; ".join(remedy.as_string() for remedy in remedies)
    )


def _grant(rights: Sequence[str], schema: str, names: Sequence[str], role: str) -> sql.Composed:
    on = sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
    return sql.SQL("grant {} on {} to {}").format(sql.SQL(", ").join(map(sql.SQL, rights)), on, sql.Identifier(role))


def _grant_execute(schema: str, names: Sequence[str], role: str) -> sql.Composed:
    on = sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
    return sql.SQL("grant execute on function {} to {}").format(on, sql.Identifier(role))


def _of_others(schema: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX]) + (", …" if len(names) > NAMES_SHOWN_MAX else "")
    return (
        f"the schema {schema} has tables of another application ({shown}): choose another group name"
        " (LISTENER_GROUP, or the application's name), which is also the schema's name"
    )


def _what_it_takes(connection: PostgresConnection, schema: str, state: SchemaState, error: psycopg.Error) -> str:
    info = connection.info
    if not state.exists:
        missing = f"there is no schema {schema}, and"
        remedy = f"'create schema {schema} authorization {info.user}' by an administrator"
    else:
        names = ", ".join(f"{one.number:04}" for one in state.pending)
        missing = f"the schema {schema} lacks the migrations {names}, and"
        remedy = "'oncecast migrate' as the owner of the schema and its tables"
    return (
        f"PostgreSQL: {missing} the role {info.user} may not create it ({error.diag.message_primary}): run {remedy},"
        " or let an administrator run the output of 'oncecast migrate --dry-run'"
    )
