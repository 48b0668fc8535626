"""A hook for schemathesis: how to serialise lines of JSON."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """To a schema, lines are a text; what is meant to be none goes out as bytes that are none."""
    return value.encode() if isinstance(value, str) else b"\xff"
