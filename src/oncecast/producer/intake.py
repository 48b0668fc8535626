"""`POST /events`: read, check, journal and answer a request. Plain ASGI, because this is the hot path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from oncecast.core.clock import Clock
from oncecast.core.errors import JournalFull, JournalUnavailable
from oncecast.core.ports import Journal
from oncecast.core.telemetry import Accepted, PublicationRefused, Record
from oncecast.core.wire import epoch_of
from oncecast.http.body import GRACE_S, read_body, too_large
from oncecast.http.problems import Problem
from oncecast.producer.broadcast.reading import ReadBudget
from oncecast.producer.cloudevents.bare import JSON, Bare, bare_of
from oncecast.producer.cloudevents.binary import is_binary, to_structured
from oncecast.producer.cloudevents.parse import STRUCTURED, Publication, read_in_slices, read_publication

RETRY_AFTER = {"Retry-After": "1"}
MINIMAL = b"return=minimal"
"""The preference (RFC 7240) of a client that needs no ids and cursors in the answer."""
SEVERAL = "; send the events in several"
SMALL_BYTES = 32 * 1024
"""A body up to this size is parsed at once: a few hundred events."""
SLICE_EVENTS = 2_000
"""The number of events whose acknowledgements are built at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """The limits of an event, a request, and all requests in progress; see the table of settings."""

    event_max_bytes: int = 1024 * 1024
    request_max_bytes: int = 16 * 1024 * 1024
    request_max_events: int = 100_000
    requests_max_bytes: int = 64 * 1024 * 1024
    body_grace_s: float = GRACE_S
    """As in `read_body`."""


class Intake:
    """Accepts events: they are on disk before it answers. `check_room()` raises Problem if the journal is full."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        record: Record,
        *,
        source: str,
        limits: IntakeLimits,
        budget: ReadBudget,
        check_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._sleep = clock.sleep
        self._monotonic_s = clock.monotonic_s  # called for every request
        self._record = record
        self._bare = Bare(source=source)
        self._limits = limits
        self._requests_max_bytes = max(limits.requests_max_bytes, limits.request_max_bytes)
        self._in_progress_bytes = 0
        self._check_room = check_room
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: 202 with ids and cursors, or a problem."""
        taken_bytes = 0

        def take(count: int) -> None:
            nonlocal taken_bytes
            self._take(count)
            taken_bytes += count

        try:
            answer = await self._accept(scope, receive, take)
        except Problem as problem:
            self._record(PublicationRefused(problem.status, problem.detail, problem.kind))
            await problem.response()(scope, receive, send)
            return
        finally:
            self._in_progress_bytes -= taken_bytes
        content = msgspec.json.encode(answer)
        headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(content))]
        if "events" not in answer:
            headers.append((b"preference-applied", MINIMAL))
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _accept(self, scope: Scope, receive: Receive, take: Callable[[int], None]) -> dict[str, Any]:
        headers = dict(scope["headers"])
        self._check_headers(headers)
        limits = self._limits
        body = await read_body(
            receive, max_bytes=limits.request_max_bytes, hint=SEVERAL, take=take, grace_s=limits.body_grace_s
        )
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if is_binary(content_type, headers):
            if len(body) > limits.event_max_bytes:
                raise Problem(
                    413, f"the event: {len(body)} bytes; an event may have at most {limits.event_max_bytes}"
                )
            body, content_type = to_structured(body, content_type, scope["headers"]), STRUCTURED
        bare = bare_of(scope["query_string"], headers, self._bare)
        return await self.publish(body, content_type, bare, minimal=_is_minimal(headers))

    def publishing(self, query_string: bytes) -> Callable[[bytes], Awaitable[dict[str, Any]]]:
        """Return `publish` with the query's places for bare events; raises Problem 400 or 422."""
        return partial(self.publish, bare=bare_of(query_string, {}, self._bare))

    async def publish(
        self, body: bytes, content_type: str = JSON, bare: Bare | None = None, *, minimal: bool = False
    ) -> dict[str, Any]:
        """Validate and journal events, and return their number, ids and cursors; raises Problem.

        A `minimal` answer has only the number.
        """
        with self._budget.publishing():
            return await self._publish(body, content_type, bare, minimal=minimal)

    async def _publish(self, body: bytes, content_type: str, bare: Bare | None, *, minimal: bool) -> dict[str, Any]:
        publication = await self._read(body, content_type, bare or self._bare)
        if not publication.events:
            return {"accepted": 0} if minimal else {"accepted": 0, "events": []}
        self._check_room()
        started_s = self._monotonic_s()
        try:
            # rule: an event is acknowledged only after its commit
            first = await self._journal.append(publication.events)
        except JournalFull as error:
            raise Problem(507, f"{error}; nothing was accepted", headers=RETRY_AFTER, kind="disk") from None
        except JournalUnavailable as error:
            # rule: a refused request is not acknowledged
            raise Problem(503, f"{error}; nothing was acknowledged", headers=RETRY_AFTER, kind="disk") from None
        identities = publication.identities
        commit_s = self._monotonic_s() - started_s
        self._record(Accepted(len(identities), identities[0][1], identities[-1][1], len(body), commit_s))
        if minimal:
            return {"accepted": len(identities)}
        return {"accepted": len(identities), "events": await self._acknowledged(identities, first)}

    async def _read(self, body: bytes, content_type: str, bare: Bare) -> Publication:
        """Return the events of a body. A large one is parsed in slices, so that other requests can run."""
        limits = {"event_max_bytes": self._limits.event_max_bytes, "max_events": self._limits.request_max_events}
        if len(body) <= SMALL_BYTES:
            return read_publication(body, content_type, bare, **limits)
        reading = read_in_slices(body, content_type, bare, **limits)
        while True:
            try:
                next(reading)
            except StopIteration as end:
                publication: Publication = end.value
                return publication
            await self._sleep(0)

    async def _acknowledged(self, identities: Sequence[tuple[str, str]], first: int) -> list[dict[str, str]]:
        epoch = epoch_of(self._journal.epochs, first)
        acknowledged: list[dict[str, str]] = []
        for begin in range(0, len(identities), SLICE_EVENTS):
            if begin:
                await self._sleep(0)
            acknowledged += [
                {"id": id_, "source": source, "cursor": f"{epoch}:{offset}"}
                for offset, (source, id_) in enumerate(identities[begin : begin + SLICE_EVENTS], first + begin)
            ]
        return acknowledged

    def _check_headers(self, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Problem(415, "compressed bodies are not accepted")
        length = headers.get(b"content-length", b"")
        max_bytes = self._limits.request_max_bytes
        if length.isdigit() and (len(length) > 18 or int(length) > max_bytes):
            raise too_large(max_bytes, SEVERAL)

    def _take(self, count: int) -> None:
        """Count the bytes of a request; raise Problem if all requests together exceed their limit."""
        if self._in_progress_bytes and self._in_progress_bytes + count > self._requests_max_bytes:
            what = f"the requests in progress hold {self._requests_max_bytes} bytes (REQUESTS_MAX_BYTES)"
            raise Problem(503, f"{what}; nothing of this request was accepted", headers=RETRY_AFTER, kind="busy")
        self._in_progress_bytes += count


def _is_minimal(headers: dict[bytes, bytes]) -> bool:
    """Return whether a client prefers a minimal answer."""
    return MINIMAL in [each.strip().lower() for each in headers.get(b"prefer", b"").split(b",")]
