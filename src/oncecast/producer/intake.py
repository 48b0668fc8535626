"""`POST /events`: one request's body read, judged, journalled and answered. Plain ASGI: this is the hot path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from oncecast.core.errors import JournalFull, JournalUnavailable
from oncecast.core.facts import Accepted, Observe, Refused
from oncecast.core.ports import Journal
from oncecast.core.wire import epoch_of
from oncecast.http.problems import Problem
from oncecast.producer.bare import JSON, Bare, bare_of
from oncecast.producer.binary import is_binary, to_structured
from oncecast.producer.ingest import STRUCTURED, read_publication

BODY_DEADLINE_S = 60.0
RETRY_AFTER = {"Retry-After": "1"}


class Intake:
    """Accepts events: they are on disk when it has answered. `check_room()` raises Problem where there is none."""

    def __init__(
        self,
        journal: Journal,
        observe: Observe,
        *,
        source: str,
        event_max_bytes: int,
        request_max_bytes: int,
        check_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._observe = observe
        self._bare = Bare(source=source)
        self._event_max_bytes = event_max_bytes
        self._request_max_bytes = request_max_bytes
        self._check_room = check_room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 202 with ids and cursors, or a problem."""
        try:
            headers = dict(scope["headers"])
            body = await self._body(headers, receive)
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            if is_binary(content_type, headers):
                body, content_type = to_structured(body, content_type, scope["headers"]), STRUCTURED
            answer = await self.publish(body, content_type, bare_of(scope["query_string"], headers, self._bare))
        except Problem as problem:
            self._observe(Refused(problem.status, problem.detail))
            await problem.response()(scope, receive, send)
            return
        content = msgspec.json.encode(answer)
        length = (b"content-length", b"%d" % len(content))
        await send(
            {"type": "http.response.start", "status": 202, "headers": [(b"content-type", JSON.encode()), length]}
        )
        await send({"type": "http.response.body", "body": content})

    async def publish(self, body: bytes, content_type: str = JSON, bare: Bare | None = None) -> dict[str, Any]:
        """Validate, journal, and say so: the ids, and their cursors; raises Problem."""
        publication = read_publication(body, content_type, bare or self._bare, event_max_bytes=self._event_max_bytes)
        if not publication.events:
            return {"accepted": 0, "events": []}
        self._check_room()
        started_s = time.monotonic()
        try:
            first = await self._journal.append(publication.events)
        except JournalFull as error:
            raise Problem(507, f"{error}; nothing was accepted", headers=RETRY_AFTER) from None
        except JournalUnavailable as error:
            raise Problem(503, f"{error}; nothing was acknowledged", headers=RETRY_AFTER) from None
        identities = publication.identities
        commit_s = time.monotonic() - started_s
        self._observe(Accepted(len(identities), identities[0][1], identities[-1][1], len(body), commit_s))
        epoch = epoch_of(self._journal.epochs, first)
        return {
            "accepted": len(identities),
            "events": [
                {"id": id_, "source": source, "cursor": f"{epoch}:{offset}"}
                for offset, (source, id_) in enumerate(identities, first)
            ],
        }

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Problem(415, "compressed bodies are not taken")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > self._request_max_bytes):
            raise self._too_large()
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                return await self._chunks(receive)
        except TimeoutError:
            raise Problem(408, f"the body did not come within {BODY_DEADLINE_S:.0f} s") from None

    async def _chunks(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem(400, "the request ended before its body did")
            chunk = message.get("body", b"")
            size_bytes += len(chunk)
            if size_bytes > self._request_max_bytes:
                raise self._too_large()
            if not message.get("more_body"):
                return chunk if not chunks else b"".join((*chunks, chunk))
            chunks.append(chunk)

    def _too_large(self) -> Problem:
        return Problem(413, f"a request may have {self._request_max_bytes} bytes; send the events in several")
