"""A token grants its right; the operator's token grants every right."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncecast.http.tokens import GRANTED, TokenMiddleware, Tokens, may, may_listen, presented

TOKENS = Tokens(
    publish="p" * 8,
    subscribe="s" * 8,
    admin="a" * 8,
    listeners=[("shop", "o" * 8), ("shop", "n" * 8), ("*", "l" * 8)],
)


@pytest.mark.parametrize(
    ("shown", "rights"),
    [
        ([], set()), (["x"], set()), (["p" * 8], {"publish"}), (["p" * 8, "s" * 8], {"publish", "subscribe"}),
        (["a" * 8], {"publish", "subscribe", "admin", "listen:*"}), (["p" * 7], set()), (["P" * 8], set()),
        (["é"], set()), (["o" * 8], {"subscribe", "listen:shop"}), (["n" * 8], {"subscribe", "listen:shop"}),
        (["l" * 8], {"subscribe", "listen:*"}),
    ],
)  # fmt: skip
def test_each_token_grants_its_right(shown: list[str], rights: set[str]) -> None:
    assert TOKENS.granted(shown) == rights


def test_a_right_without_a_token_is_granted_to_all() -> None:
    assert Tokens(publish="p" * 8, subscribe=None, admin=None).granted([]) == {"subscribe", "admin", "listen:*"}
    without_listeners = Tokens(publish="p" * 8, subscribe="s" * 8, admin=None)
    assert without_listeners.granted([]) == {"admin"}, "who may not read may not listen"
    assert without_listeners.granted(["s" * 8]) == {"admin", "subscribe", "listen:*"}
    assert not Tokens(publish=None, subscribe=None, admin="")


@given(st.text(st.characters(codec="latin-1")))
def test_no_other_text_grants_a_right(shown: str) -> None:
    assert not TOKENS.granted([shown]) or shown in {dead_letter * 8 for dead_letter in "psaonl"}


@given(st.binary(), st.lists(st.text(st.characters(codec="ascii"))))
def test_any_headers_are_read_without_an_error(header: bytes, offered: list[str]) -> None:
    offered += [f"bearer.{text}" for text in offered]
    list(presented({"headers": [(b"authorization", header)], "subprotocols": offered}))


def test_a_token_is_read_from_a_header_or_a_subprotocol() -> None:
    offered = "bearer." + urlsafe_b64encode(b"to?ken+/").decode().rstrip("=")
    scope = {"headers": [(b"authorization", b"bEARER  abc")], "subprotocols": ["cloudevents.json", offered]}
    assert list(presented(scope)) == ["abc", "to?ken+/"]
    assert list(presented({"headers": [(b"authorization", b"Basic abc")]})) == []


@pytest.mark.parametrize(
    ("granted", "shop", "audit", "any_group"),
    [
        ({"subscribe"}, False, False, False), ({"listen:shop"}, True, False, True), ({"listen:*"}, True, True, True),
        ({"listen:shopping"}, False, False, True),
    ],
)  # fmt: skip
def test_a_listener_token_is_for_its_group(granted: set[str], shop: bool, audit: bool, any_group: bool) -> None:
    scope = {GRANTED: frozenset(granted)}
    assert (may_listen(scope, "shop"), may_listen(scope, "audit"), may_listen(scope)) == (shop, audit, any_group)
    assert may_listen({}, "shop"), "without TokenMiddleware every client has every right"


async def test_a_refusal_names_the_token_but_never_its_value() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        sent.append({"granted": scope[GRANTED], "may": may(scope, "publish")})

    keeper = TokenMiddleware(app, TOKENS, lambda scope: "publish")
    await keeper({"type": "http", "headers": []}, app, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 401
    assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
    assert b"PUBLISH_TOKEN" in sent[1]["body"]
    assert b"pppppppp" not in sent[1]["body"]
    await keeper({"type": "http", "headers": [(b"authorization", b"Bearer pppppppp")]}, app, send)  # type: ignore[arg-type]
    assert sent[2] == {"granted": {"publish"}, "may": True}
    assert "pppppppp" not in repr(TOKENS)
