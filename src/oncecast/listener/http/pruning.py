"""The route that prunes rows at an operator's request, some chunks per request, so that each request ends soon."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from oncecast.core.ports import PrunedRows, RowRetention
from oncecast.core.telemetry import OperatorActed, Record, ignore
from oncecast.http.params import client_of, struct
from oncecast.http.problems import json_response
from oncecast.listener.background.pruning import CHUNK_ROWS
from oncecast.listener.http.app import route
from oncecast.listener.http.openapi import PruneRequest

CHUNKS_MAX = 10


def pruning_routes(store: RowRetention, record: Record = ignore) -> list[BaseRoute]:
    """Return the route `POST /api/prune`, which answers how many rows it deleted, and whether there are more."""

    async def prune(request: Request) -> Response:
        asked = await struct(request, PruneRequest)
        if asked.dry_run:
            rows = await store.count_prunable(older_than_s=asked.older_than_s)
            return json_response({"rows": rows, "more": False, "dry_run": True})
        rows, chunk = 0, PrunedRows(CHUNK_ROWS, None)
        for _ in range(CHUNKS_MAX):
            chunk = await store.prune(older_than_s=asked.older_than_s, limit=CHUNK_ROWS, after=chunk.up_to)
            rows += chunk.rows
            if chunk.rows < CHUNK_ROWS:
                break
        record(OperatorActed(f"prune rows older than {asked.older_than_s:g} s", rows, client_of(request)))
        return json_response({"rows": rows, "more": chunk.rows == CHUNK_ROWS, "dry_run": False})

    return [route("/api/prune", prune, "POST")]
