"""The command `sql`: run a statement in the stack's PostgreSQL, for machines without psql."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg
from cyclopts import Parameter

from oncecast.cli import output
from oncecast.cli.events.publish import secret
from oncecast.cli.stack import state_file as stack_file
from oncecast.core.errors import ConfigError, Unavailable
from oncecast.stores.postgres.session import READABLE

CONNECT_DEADLINE_S = 5
STATEMENT_DEADLINE_S = 300


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The result of one statement: rows with column names, or only a count."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    touched: int


def sql(
    query: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    data: stack_file.Data = stack_file.DEFAULT_DATA,
    json: Annotated[
        bool | None, Parameter(help="Print one JSON object per row; the default if the output is not a terminal.")
    ] = None,
) -> None:
    """Run SQL in the database of a stack or, without a stack, in that of DATABASE_URL.

    Oncecast's tables are in the schema of the group, such as shop.events. Several statements, separated by
    semicolons, are one transaction.

    Parameters
    ----------
    query
        The SQL; `@FILE` reads a file, `-` reads standard input.
    """
    text, url = _text(query), _url(data)
    try:
        results = asyncio.run(_run(text, url))
    except (psycopg.OperationalError, TimeoutError) as error:
        raise Unavailable(f"PostgreSQL: {_error_text(error)}") from None
    except psycopg.Error as error:
        raise ConfigError(_error_text(error)) from None
    except UnicodeEncodeError:
        raise ConfigError("the SQL is not valid UTF-8") from None
    for result in results:
        _print(result, as_json=output.wants_json(json))


async def _run(text: str, url: str) -> list[QueryResult]:
    async with asyncio.timeout(CONNECT_DEADLINE_S):
        connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=CONNECT_DEADLINE_S, application_name="oncecast sql"
        )
    async with connection, asyncio.timeout(STATEMENT_DEADLINE_S):
        await connection.execute(f"{READABLE}; set time zone 'UTC'".encode())
        cursor = await connection.execute(text.encode())
        results = [await _result(cursor)]
        while cursor.nextset():
            results.append(await _result(cursor))
        return results


async def _result(cursor: psycopg.AsyncCursor[Any]) -> QueryResult:
    if cursor.description is None:
        return QueryResult((), (), cursor.rowcount)
    return QueryResult([column.name for column in cursor.description], await cursor.fetchall(), cursor.rowcount)


def _print(result: QueryResult, *, as_json: bool) -> None:
    if as_json:
        for row in result.rows if result.columns else [(result.touched if result.touched >= 0 else None,)]:
            named = dict(zip(result.columns or ["rows"], row, strict=True))
            output.line(msgspec.json.encode(named, enc_hook=str).decode())
    elif result.columns:
        output.table("", result.columns, [[_shown(value) for value in row] for row in result.rows])
    else:
        output.line("Done." if result.touched < 0 else f"{result.touched:,} row{'s' * (result.touched != 1)}.")


def _shown(value: Any) -> Any:
    """Return `value` as text for a table. Floats are not rounded, unlike in `output.cell`."""
    match value:
        case None | bool() | int():
            return value
        case bytes():
            return "\\x" + value.hex()
        case dict() | list():
            return msgspec.json.encode(value, enc_hook=str).decode()
        case _:
            return str(value)


def _text(query: str) -> str:
    try:
        if query == "-":
            return sys.stdin.read()
        return Path(query[1:]).read_text("utf-8") if query.startswith("@") else query
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("the SQL is not valid UTF-8") from None


def _url(data: Path) -> str:
    """Return the URL of the stack's database. It contains the password: never print it."""
    file = data / "postgres.url"
    try:
        if file.exists() or not (url := secret("DATABASE_URL")):
            return file.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"no stack has run in {data}: begin one by 'oncecast up', name its folder by --data, or set DATABASE_URL"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename!r}: {error.strerror}") from None
    return url


def _error_text(error: BaseException) -> str:
    """Return an error on one line, with PostgreSQL's hint; never the address, which has the password."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        place = f" (at character {error.diag.statement_position})" if error.diag.statement_position else ""
        hint = f"; {error.diag.message_hint}" if error.diag.message_hint else ""
        return f"{error.diag.message_primary}{place}{hint}"
    return output.printable(str(error)).strip()
