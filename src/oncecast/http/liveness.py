"""The answer of `/livez`: whether the process needs a restart."""

from __future__ import annotations

from starlette.responses import Response

from oncecast.http.problems import Problem, json_response
from oncecast.tasks import Essentials


def liveness(essentials: Essentials) -> Response:
    """Return 200 while every essential task runs; raise Problem 503 when one has ended or is stalled."""
    if (trouble := essentials.trouble) is not None:
        raise Problem(503, f"{trouble}; restart this process")
    return json_response({"status": "ok"})
