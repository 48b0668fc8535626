"""Answer requests about ended events, dead letters and conflicts that a producer relays, with the listener's API."""

from __future__ import annotations

import asyncio

import httpx2
from starlette.types import ASGIApp

from oncecast.core.wire import ANSWER_MAX_BYTES, Answer, Ask, encode
from oncecast.http.problems import Problem
from oncecast.listener.http.app import EVENTS_PATH, RETRYING_PATH
from oncecast.listener.http.conflicts import PATH as CONFLICTS_PATH
from oncecast.listener.http.dead_letters import CAUSES_PATH, PATH

AT_A_TIME = 4
RELAYED = (EVENTS_PATH, PATH, CONFLICTS_PATH)
"""Lists that are relayed, with all below."""


class AdminRelay:
    """Answers `Ask`s with `app`, up to AT_A_TIME concurrently; `app` is set once it exists."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self._places = asyncio.Semaphore(AT_A_TIME)

    async def answer(self, ask: Ask) -> Answer:
        """Return the API's answer; 404 for paths that are not relayed."""
        if self.app is None or self._places.locked():
            return _problem(ask, Problem(503, "this listener is busy; try again in a moment"))
        if ask.path not in (*RELAYED, CAUSES_PATH, RETRYING_PATH) and not ask.path.startswith(
            tuple(f"{path}/" for path in RELAYED)
        ):
            return _problem(ask, Problem(404, "there is nothing here"))
        async with self._places:
            return await self._ask(self.app, ask)

    async def _ask(self, app: ASGIApp, ask: Ask) -> Answer:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False, client=("a producer", 0))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                answer = await client.request(ask.method, f"{ask.path}?{ask.query}", content=ask.body.encode())
                content = answer.content.decode()
            except (httpx2.InvalidURL, UnicodeError):
                return _problem(ask, Problem(400, "this address cannot be read"))
        answered = Answer(id=ask.id, status=answer.status_code, body=content)
        # A producer closes the connection at a larger frame. Escaped quotes lengthen it, so the frame is measured.
        if len(content) > ANSWER_MAX_BYTES // 16 and len(encode(answered)) > ANSWER_MAX_BYTES:
            reason = "the answer is too large to relay; use a smaller `limit`, or call the listener's own API"
            return _problem(ask, Problem(502, reason))
        return answered


def _problem(ask: Ask, problem: Problem) -> Answer:
    return Answer(id=ask.id, status=problem.status, body=problem.body().decode())
