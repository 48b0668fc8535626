"""Access rights: bearer tokens for publishing, reading, listening and operating. Middleware for an application.

Every client has a right for which no token is set. Without listener tokens, every reader may be a listener. The
operator's token grants everything. A listener's token also grants reading, because a listener gets every event.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from oncecast.core.groups import ANY_GROUP
from oncecast.core.telemetry import AccessRefused, Record, ignore
from oncecast.http.problems import Problem, refuse_handshake

Right = Literal["publish", "subscribe", "admin"]
GRANTED = "oncecast.granted"
"""The key of the client's rights in the scope."""
_LISTEN = "listen:"
"""The prefix of a group's name in the right to be a listener of that group."""
_EVERYTHING = frozenset(("publish", "subscribe", "admin", _LISTEN + ANY_GROUP))
_OFFERED = "bearer."
"""A page's WebSocket cannot send headers; it offers the subprotocol `bearer.` + base64url of its token."""


class Tokens:
    """The configured tokens by right; `listeners` are pairs of a group (or ANY_GROUP) and a token."""

    def __init__(self, *, listeners: Sequence[tuple[str, str]] = (), **tokens: str | None) -> None:
        self._tokens = [(right, token.encode()) for right, token in tokens.items() if token]
        self._tokens += [(_LISTEN + group, token.encode()) for group, token in listeners]
        self._unguarded = {"publish", "subscribe", "admin"} - {right for right, _ in self._tokens}
        self._readers_may_listen = not listeners

    def __repr__(self) -> str:
        return f"Tokens for {', '.join(right for right, _ in self._tokens) or 'nothing'}"

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def granted(self, presented: Iterable[str]) -> frozenset[str]:
        """Return the rights of a client that presents these tokens."""
        texts = [text.encode() for text in presented]
        shown = {
            right
            for right, token in self._tokens
            if any([hmac.compare_digest(token, text) for text in texts])  # noqa: C419 - compare all, in constant time
        }
        if "admin" in shown:
            return _EVERYTHING
        granted = shown | self._unguarded
        if any(right.startswith(_LISTEN) for right in shown):
            granted.add("subscribe")
        if self._readers_may_listen and "subscribe" in granted:
            granted.add(_LISTEN + ANY_GROUP)
        return frozenset(granted)


class TokenMiddleware:
    """Passes requests with the right that `needs(scope)` returns; None means no right is needed."""

    def __init__(
        self, app: ASGIApp, tokens: Tokens, needs: Callable[[Scope], Right | None], record: Record = ignore
    ) -> None:
        self._app = app
        self._record = record
        self._tokens = tokens
        self._needs = needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request with 401, or pass it on with the client's rights in the scope."""
        right = self._needs(scope)
        granted = self._tokens.granted(presented(scope))
        if right is None or right in granted:
            await self._app({**scope, GRANTED: granted}, receive, send)
            return
        problem = Problem(
            401,
            f"this request needs the {right} token: 'Authorization: Bearer …' ({right.upper()}_TOKEN of the client)",
            headers={"WWW-Authenticate": "Bearer"},
        )
        self._record(AccessRefused(problem.status, problem.detail))
        if scope["type"] == "websocket":
            await refuse_handshake(scope, problem, send)
        else:
            await problem.response()(scope, receive, send)


def may(scope: Scope, right: Right) -> bool:
    """Return whether the client has `right`. Without TokenMiddleware, every client has every right."""
    return GRANTED not in scope or right in scope[GRANTED]


def may_listen(scope: Scope, group: str | None = None) -> bool:
    """Return whether the client may be a listener of `group`, or of any group if None."""
    if GRANTED not in scope:
        return True
    granted = scope[GRANTED]
    if group is None:
        return any(right.startswith(_LISTEN) for right in granted)
    return _LISTEN + ANY_GROUP in granted or _LISTEN + group in granted


def presented(scope: Scope) -> Iterator[str]:
    """Yield the tokens of a request or a handshake."""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            yield value[7:].strip().decode("latin-1")
    for offered in scope.get("subprotocols", ()):
        if offered.startswith(_OFFERED):
            text = offered.removeprefix(_OFFERED)
            try:
                yield urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("latin-1")
            except ValueError:
                continue
