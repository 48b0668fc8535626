"""Load the named queries of `queries.sql`, with the group's schema filled in."""

from __future__ import annotations

import re
from importlib import resources

from psycopg import sql

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_PARTS = ("chosen", "held")
"""Parts that several queries share, as `{chosen}` or `{held}`."""


def load_queries(schema: str) -> dict[str, bytes]:
    """Return the text of all named queries for `schema`."""
    text = resources.files(__package__).joinpath("sql/queries.sql").read_text("utf-8")
    names_and_bodies = _NAME.split(text)[1:]
    bodies = dict(zip(names_and_bodies[::2], names_and_bodies[1::2], strict=True))
    parts = {name: in_schema(bodies.pop(name).strip(), schema) for name in _PARTS}
    return {name: in_schema(body.strip(), schema, **parts).as_bytes() for name, body in bodies.items()}


def in_schema(text: str, schema: str, **parts: sql.Composed) -> sql.Composed:
    """Return `text` with `{schema}` as a quoted name, `{schema_text}` as a literal, and `parts` filled in."""
    return sql.SQL(text).format(schema=sql.Identifier(schema), schema_text=sql.Literal(schema), **parts)
