"""The SQL of `queries.sql` by name, with the group's schema filled in."""

from __future__ import annotations

import re
from importlib import resources

from psycopg import sql

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load_queries(schema: str) -> dict[str, sql.Composed]:
    """All named queries for `schema`."""
    text = resources.files(__package__).joinpath("sql/queries.sql").read_text("utf-8")
    names_and_bodies = _NAME.split(text)[1:]
    return {
        name: in_schema(body.strip(), schema)
        for name, body in zip(names_and_bodies[::2], names_and_bodies[1::2], strict=True)
    }


def in_schema(text: str, schema: str) -> sql.Composed:
    """`text` with `{schema}` replaced by the quoted name, `{schema_text}` by a literal; there are no other braces."""
    return sql.SQL(text).format(schema=sql.Identifier(schema), schema_text=sql.Literal(schema))
