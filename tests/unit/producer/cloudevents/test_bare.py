"""The query of a request gives the places of its bare events' ids and other attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from oncecast.http.problems import Problem
from oncecast.producer.cloudevents.bare import Bare, bare_of
from oncecast.producer.cloudevents.parse import read_publication

EXAMPLE = Path(__file__).parents[4] / "examples/github.ndjson"
_NAME = "shared/data/github-webhooks.ndjson"
SHARED = next((folder / _NAME for folder in Path(__file__).parents if (folder / _NAME).exists()), None)
ORDER = {"id": 7, "order": {"number": "A-1", "lines": [{"sku": "x/y~z"}, {"sku": 2}]}, "x/y": {"m~n": "odd"}, "": "e"}


def published(body: Any, query: str = "", content_type: str = "application/json", **headers: str) -> list[Any]:
    """Return the events of a request."""
    named = {name.replace("_", "-").lower().encode(): value.encode("latin-1") for name, value in headers.items()}
    bare = bare_of(query.encode(), named, Bare(source="/default"))
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [json.loads(e) for e in read_publication(text, content_type, bare, event_max_bytes=100_000).events]


def ids(body: Any, query: str = "", content_type: str = "application/json", **headers: str) -> list[str]:
    return [event["id"] for event in published(body, query, content_type, **headers)]


def refusal(body: Any, query: str = "", **headers: str) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        published(body, query, **headers)
    return caught.value.status, caught.value.detail


@pytest.mark.parametrize(
    ("pointer", "id_"),
    [
        ("/id", "7"),
        ("/order/number", "A-1"),
        ("/order/lines/0/sku", "x/y~z"),
        ("/order/lines/1/sku", "2"),
        ("/x~1y/m~0n", "odd"),
        ("/", "e"),
        ("body:/order/number", "A-1"),
    ],
)
def test_a_json_pointer_gives_the_place_of_the_id(pointer: str, id_: str) -> None:
    assert ids(ORDER, f"id={quote(pointer)}") == [id_]
    assert ids(ORDER, f"id={pointer}") == [id_]
    (event,) = published(ORDER, f"id={pointer}")
    assert event["data"] == ORDER, "what is read from the body stays in it"


def test_a_whole_number_of_any_size_keeps_its_digits_as_an_id() -> None:
    assert ids(b'{"n":820982911946154508}', "id=/n") == ["820982911946154508"]
    assert ids(b'{"n":123456789012345678901234567890}', "id=/n") == ["123456789012345678901234567890"]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("id=/missing", 422, "the event: there is no '/missing', the place of its id"),
        ("id=/order", 422, "is an object; an id must be a string or an integer"),
        ("id=/order/lines", 422, "is an array"),
        ("id=/order/lines/2/sku", 422, "there is no"),
        ("id=/order/lines/-/sku", 422, "there is no"),
        ("id=/order/lines/00/sku", 422, "there is no"),
        ("id=/order/number/x", 422, "there is no"),
        ("id=/~2", 400, "~ is written ~0"),
        ("id=", 400, "is not a place"),
        ("id=o-1", 400, "is not a place"),
        ("id=body:x", 400, "must begin with a slash"),
        ("id=header:", 400, "not the name of a header"),
        ("id=header:a%20b", 400, "not the name of a header"),
        ("id=header:X-Delivery", 422, "no header X-Delivery"),
        ("type=header:X-Event", 422, "no header X-Event"),
        ("type=body:/order", 422, "a type must be a string"),
        ("type=", 422, "type is empty"),
        ("time=body:/order/number", 422, "RFC 3339"),
        ("type=a&type=b", 400, "type is given twice"),
        ("preset=gitbub", 400, "unknown preset 'gitbub'; known presets: github, shopify, standard-webhooks, stripe"),
        ("preset=github", 422, "no header X-GitHub-Delivery"),
        ("preset=shopify", 422, "no header X-Shopify-Event-Id or X-Shopify-Webhook-Id"),
    ],
)
def test_a_place_without_an_attribute_is_refused_with_its_name(query: str, status: int, said: str) -> None:
    found, detail = refusal(ORDER, query)
    assert (found, said in detail) == (status, True), detail


@pytest.mark.parametrize("value", [True, 1.0, 1.5, [], {}, None, "", "x" * 513, "a\nb"])
def test_an_invalid_id_at_the_named_place_is_refused(value: Any) -> None:
    status, detail = refusal([{"n": 1}, {"n": value}], "id=/n")
    assert (status, detail.startswith("event 2: ")) == (422, True), detail


def test_a_pointer_gives_each_event_of_a_batch_or_ndjson_its_id() -> None:
    orders = [{"n": {"o": 1}}, {"n": {"o": "b"}}]
    assert ids(orders, "id=/n/o") == ["1", "b"]
    lines = b"\n".join(json.dumps(order).encode() for order in orders)
    assert ids(lines, "id=/n/o", "application/x-ndjson") == ["1", "b"]


def test_several_places_are_one_id_that_differs_in_any_part() -> None:
    query = "id=/id&id=/status"
    assert ids([{"id": 7, "status": "paid"}, {"id": 7, "status": "refunded"}], query) == ["7/paid", "7/refunded"]
    assert ids({"id": "a/b", "status": "c"}, query) != ids({"id": "a", "status": "b/c"}, query)


def test_a_header_gives_the_same_id_to_each_redelivery() -> None:
    assert ids({"a": 1}, "id=header:X-Delivery", x_delivery="d-1") == ["d-1"]
    first, again = (ids([{"a": 1}, {"a": 2}], "id=header:X-Delivery", x_delivery="d-1") for _ in range(2))
    assert first == again
    assert len(set(first)) == 2, "a batch's events have ids of their own"


def test_the_address_precedes_the_idempotency_key_and_the_body() -> None:
    statuses = [{"id": 820982911946154508, "status": status} for status in ("pending", "paid", "refunded")]
    by_key = [ids(body, Idempotency_Key=f"k-{n}") for n, body in enumerate(statuses)]
    assert len({id_ for (id_,) in by_key}) == 3
    assert ids(statuses[0], Idempotency_Key="k-0") == by_key[0]
    assert ids(statuses[0], "id=/status", Idempotency_Key="k-0") == ["pending"]
    assert ids({"a": 1}, "id=/status", Idempotency_Key="k-0") == by_key[0], "nothing is there: the key is the id"


def test_one_idempotency_key_gives_a_batch_the_same_distinct_ids_again() -> None:
    body = [{"id": 1}, {"id": 1}, {"id": 1}]
    first, again = (ids(body, Idempotency_Key="k") for _ in range(2))
    assert first == again
    assert len(set(first)) == 3


def test_new_draws_a_random_id() -> None:
    (first,), (second,) = (ids({"id": 7}, "id=new") for _ in range(2))
    assert first.startswith("evt_")
    assert first != second


def test_other_attributes_are_literal_or_in_the_body_or_in_a_header() -> None:
    body = {"kind": "paid", "shop": "/s/1", "at": "2026-01-31T12:00:00.5+01:00", "who": 7}
    query = "type=header:X-Topic&source=body:/shop&subject=body:/who&time=body:/at"
    (event,) = published(body, query, x_topic="orders/paid")
    assert {name: event[name] for name in ("type", "source", "subject", "time")} == {
        "type": "orders/paid",
        "source": "/s/1",
        "subject": "7",
        "time": "2026-01-31T12:00:00.5+01:00",
    }
    (event,) = published(body, "type=a.b&source=/lit&subject=s&time=2026-01-31T12:00:00Z")
    assert (event["type"], event["source"], event["subject"]) == ("a.b", "/lit", "s")


def test_a_cloudevent_keeps_its_own_attributes() -> None:
    event = {"specversion": "1.0", "id": "own", "source": "/own", "type": "own", "data": {"id": 1}}
    assert published(event, "id=/data/id&type=x&source=/y", Idempotency_Key="k") == [event]


def test_github_sends_its_delivery_and_event_in_headers() -> None:
    body = {"action": "opened", "issue": {"id": 1}, "repository": {"full_name": "o/r"}}
    headers = {"X_GitHub_Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "X_GitHub_Event": "issues"}
    (event,) = published(body, "preset=github", **headers)
    assert (event["id"], event["type"], event["subject"]) == (
        headers["X_GitHub_Delivery"],
        "com.github.issues.opened",
        "o/r",
    )
    (push,) = published({"ref": "main"}, "preset=github", X_GitHub_Delivery="d", X_GitHub_Event="push")
    assert (push["type"], "subject" in push) == ("com.github.push", False)
    (other,) = published(body, "preset=github&type=mine&id=/issue/id", **headers)
    assert (other["id"], other["type"]) == ("1", "mine"), "what the address says itself comes first"


@pytest.mark.parametrize("file", [EXAMPLE, SHARED], ids=["example", "shared"])
def test_every_webhook_of_github_gets_its_id_and_type_from_the_preset(file: Path | None) -> None:
    if file is None:
        pytest.skip("needs shared/data/github-webhooks.ndjson")
    for line in file.read_bytes().splitlines():
        known = json.loads(line)
        name = known["type"].removeprefix("com.github.")
        action = known["data"].get("action")
        headers = {"X_GitHub_Delivery": known["id"], "X_GitHub_Event": name.removesuffix(f".{action}")}
        (event,) = published(known["data"], "preset=github", **headers)
        assert event["id"] == known["id"]
        assert known["type"] in (event["type"], event["type"].removesuffix(f".{action}"))
        assert event["data"] == known["data"]


def test_shopify_sends_one_event_for_each_topic_that_it_concerns() -> None:
    body = {"id": 820982911946154508, "admin_graphql_api_id": "gid://shopify/Order/820982911946154508"}
    shop = {"X_Shopify_Shop_Domain": "a.myshopify.com", "X_Shopify_Webhook_Id": "w"}
    (paid,) = published(body, "preset=shopify", X_Shopify_Event_Id="e", X_Shopify_Topic="orders/paid", **shop)
    (updated,) = published(body, "preset=shopify", X_Shopify_Event_Id="e", X_Shopify_Topic="orders/updated", **shop)
    assert paid["id"] != updated["id"]
    assert (paid["type"], paid["source"]) == ("com.shopify.orders/paid", "https://a.myshopify.com")
    assert paid["subject"] == body["admin_graphql_api_id"]
    (older,) = published(body, "preset=shopify", X_Shopify_Topic="orders/paid", **shop)
    assert older["id"] == "w"


def test_stripe_has_the_events_id_and_type_in_the_body() -> None:
    body = {"id": "evt_1", "type": "charge.succeeded", "data": {"object": {"id": "ch_1"}}}
    (event,) = published(body, "preset=stripe")
    assert (event["id"], event["type"], event["subject"]) == ("evt_1", "com.stripe.charge.succeeded", "ch_1")


@pytest.mark.parametrize("header", ["webhook_id", "svix_id"])
def test_standard_webhooks_send_their_message_id_in_a_header(header: str) -> None:
    (event,) = published({"type": "user.created"}, "preset=standard-webhooks", **{header: "msg_1"})
    assert (event["id"], event["type"], event["source"]) == ("msg_1", "user.created", "/default")


def test_the_query_is_percent_decoded_as_utf8() -> None:
    assert ids({"ü/n": "x"}, urlencode({"id": "/ü~1n"})) == ["x"]
